// Takes over the page that the server rendered: posthog-js starts with the flags that are in it already.

import posthog from "/static/posthog.js";
import { FLAGS, viewOf } from "/static/view.js";

const start = JSON.parse(document.getElementById("start").textContent);
const buy = document.getElementById("buy");
const banner = document.getElementById("banner");

posthog.init(start.token, {
  api_host: start.api,
  bootstrap: start.bootstrap ?? {},
  // Left to itself, posthog-js takes an identified person for being on a new device each time it is told who they are.
  get_device_id: (fresh) => start.bootstrap?.deviceID ?? fresh,
  autocapture: false,
  capture_pageview: false,
  capture_pageleave: false,
  disable_session_recording: true,
  disable_surveys: true,
});
// What the server said of its visitor, the browser must say as well, or it would ask another question.
posthog.setPersonPropertiesForFlags(start.person, false);
// Started with flags, posthog-js asks for no others by itself: for those that the server would have had to wait for.
if (start.bootstrap?.incomplete.length) posthog.reloadFeatureFlags();

// Called at once with the flags of the page, and again when some were fetched, which leaves the page as it is.
posthog.onFeatureFlags(() => {
  const flags = {};
  const payloads = {};
  for (const key of FLAGS) {
    flags[key] = posthog.getFeatureFlag(key);
    payloads[key] = posthog.getFeatureFlagPayload(key);
  }
  const { colour, label, hasBanner } = viewOf(flags, payloads);
  if (buy.className !== colour) buy.className = colour;
  if (buy.textContent !== label) buy.textContent = label;
  if (banner.hidden === hasBanner) banner.hidden = !hasBanner;
});

document.documentElement.dataset.hydrated = "true";
