// The page, as text. Nothing here asks for anything.

import { viewOf } from "./static/view.js";

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** Text that may stand anywhere in a page. */
const escaped = (text) => String(text).replace(/[&<>"']/g, (character) => ENTITIES[character]);

/** JSON that may stand in a script element: without "<", nothing in it can end the element. */
const inlined = (value) => JSON.stringify(value).replaceAll("<", "\\u003c");

/** The whole page. Without flags it is the shop as everybody knows it. */
export function render({ token, api, user, person, bootstrap }) {
  const { colour, label, hasBanner } = viewOf(bootstrap?.featureFlags ?? {}, bootstrap?.featureFlagPayloads ?? {});
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Flagstone &amp; Sons</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="/static/shop.css">
    <script type="application/json" id="start">${inlined({ token, api, person, bootstrap })}</script>
    <script type="module" src="/static/hydrate.js"></script>
  </head>
  <body>
    <div id="banner"${hasBanner ? "" : " hidden"}>New: find your stone by room, colour and weight</div>
    <header><strong>Flagstone &amp; Sons</strong><span id="user">${user ? `Hello, ${escaped(user)}` : "Welcome"}</span></header>
    <main>
      <div class="picture"></div>
      <div>
        <h1>Garden slab, sandstone</h1>
        <p>Split by hand, laid for a hundred years. Forty by sixty centimetres, and never two alike.</p>
        <p class="price">&euro; 24</p>
        <button id="buy" class="${escaped(colour)}">${escaped(label)}</button>
      </div>
    </main>
    <footer>${bootstrap ? "Rendered with flags in it" : "Rendered without flags"}</footer>
  </body>
</html>
`;
}
