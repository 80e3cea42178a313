// One client for as long as stdin is open. The first line says which: {"client", "arguments"}. Each further line is a
// call, {"call", "arguments"}, answered with a line {"value"} or {"error"}. `requests` is what the client has asked for
// since the last time: [path, status, whether it named an ETag].
import { createInterface } from 'node:readline'
import { OFREPProvider } from '@openfeature/ofrep-provider'
import { OpenFeature } from '@openfeature/server-sdk'
import { PostHog } from 'posthog-node'

let requests = []

async function recordingFetch(resource, options) {
  const request = new Request(resource, options)
  const response = await fetch(request)
  requests.push([new URL(request.url).pathname, response.status, request.headers.has('if-none-match')])
  return response
}

const CLIENTS = {
  posthog(token, options) {
    const client = new PostHog(token, { ...options, fetch: recordingFetch })
    const called = client.evaluateFlags.bind(client)
    client.evaluateFlags = async (...all) => {
      const found = await called(...all)
      return Object.fromEntries(found.keys.map((key) => [key, [found.getFlag(key), found.getFlagPayload(key)]]))
    }
    return client
  },
  async openfeature(options) {
    await OpenFeature.setProviderAndWait(new OFREPProvider({ ...options, fetchImplementation: recordingFetch }))
    return OpenFeature.getClient()
  },
}

const SHARED = {
  requests() {
    const seen = requests
    requests = []
    return seen
  },
}

// What the clients log goes where it does not mix with the answers.
console.log = console.info = console.debug = console.error
let client
for await (const line of createInterface({ input: process.stdin })) {
  const { client: kind, call, arguments: given } = JSON.parse(line)
  let answer
  try {
    if (kind) client = await CLIENTS[kind](...given)
    else answer = { value: await (SHARED[call] ?? client[call].bind(client))(...given) }
  } catch (error) {
    answer = { error: String(error) }
  }
  process.stdout.write(JSON.stringify(answer ?? {}) + '\n')
}
process.exit(0)
