// Reads {"projects": [{"definitions": ..., "cases": [...]}]} from stdin, lets posthog-node evaluate each case by itself,
// and writes one list of {flag: value} per project. Its definitions come from a server in this process; nothing leaves
// the machine.
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'
import { PostHog } from 'posthog-node'

async function evaluated({ definitions, cases }) {
  const server = createServer((request, response) => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify(request.url.startsWith('/flags/definitions') ? definitions : {}))
  })
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening))
  const client = new PostHog('phc_node', {
    host: `http://127.0.0.1:${server.address().port}`,
    personalApiKey: 'phx_node',
    featureFlagsPollingInterval: 3_600_000,
    disableGeoip: true,
  })
  try {
    if (!(await client.waitForLocalEvaluationReady(10_000))) throw new Error('definitions did not load')
    const answers = []
    for (const { distinct_id, person_properties, groups, group_properties } of cases) {
      answers.push(
        await client.getAllFlags(distinct_id, {
          personProperties: person_properties,
          groups,
          groupProperties: group_properties,
          onlyEvaluateLocally: true,
        })
      )
    }
    return answers
  } finally {
    await client.shutdown(1000)
    server.closeAllConnections()
    server.close()
  }
}

const { projects } = JSON.parse(await text(process.stdin))
const answers = []
for (const project of projects) answers.push(await evaluated(project))
process.stdout.write(JSON.stringify(answers), () => process.exit(0))
