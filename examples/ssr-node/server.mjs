// A shop that renders its page with the flags of whoever asks, and does without them rather than be late.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

import { render } from "./page.mjs";

const FLAGSTONE_URL = process.env.FLAGSTONE_URL ?? "http://127.0.0.1:8000";
const TOKEN = process.env.FLAGSTONE_TOKEN ?? "phc_demo";
const PATIENCE_MS = Number(process.env.FLAGSTONE_TIMEOUT_MS ?? 50);

// Stands for accounts; the shop knows the plan of everybody who is signed in.
const PLANS = new Map([["ada", "team"], ["bob", "free"]]);

const STATIC = {
  "/static/posthog.js": ["node_modules/posthog-js/dist/module.no-external.js", "text/javascript"],
  "/static/hydrate.js": ["static/hydrate.js", "text/javascript"],
  "/static/view.js": ["static/view.js", "text/javascript"],
  "/static/shop.css": ["static/shop.css", "text/css"],
};

const POLICY = `default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src ${FLAGSTONE_URL}`;

/** What posthog-js starts with; null where that cannot be had in time. */
async function bootstrapFor(visitor) {
  try {
    const answer = await fetch(`${FLAGSTONE_URL}/bootstrap`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-request-timeout-ms": String(PATIENCE_MS) },
      body: JSON.stringify({ token: TOKEN, ...visitor }),
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (!answer.ok) throw new Error(`flagstone answered ${answer.status}`);
    return await answer.json();
  } catch (error) {
    console.error(`rendering without flags: ${error.message}`);
    return null;
  }
}

/** The page for one request; `?user=ada` stands for somebody who is signed in. */
async function page(request, url) {
  const user = url.searchParams.get("user");
  const person = { plan: PLANS.get(user) ?? "none" };
  const visitor = { cookie: request.headers.cookie, person_properties: person };
  if (user) visitor.distinct_id = user;
  return render({ token: TOKEN, api: FLAGSTONE_URL, user, person, bootstrap: await bootstrapFor(visitor) });
}

async function handle(request, response) {
  const url = new URL(`http://shop${request.url}`);
  const [file, type] = STATIC[url.pathname] ?? [];
  if (file) {
    response.setHeader("content-type", `${type}; charset=utf-8`);
    response.end(await readFile(new URL(file, import.meta.url)));
  } else if (url.pathname === "/") {
    response.setHeader("content-type", "text/html; charset=utf-8");
    response.setHeader("content-security-policy", POLICY);
    response.setHeader("cache-control", "private, no-store");
    response.end(await page(request, url));
  } else {
    response.statusCode = 404;
    response.end();
  }
}

const server = createServer((request, response) => {
  handle(request, response).catch((error) => {
    console.error(error);
    response.statusCode = 500;
    response.end();
  });
});

// Opens the connection, which the first visitor would have to wait for.
fetch(`${FLAGSTONE_URL}/_liveness`).catch(() => {});

server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  console.log(`The shop is open at http://127.0.0.1:${server.address().port}`);
});
