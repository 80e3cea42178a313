// What the pages of the tests use, under names of its own: the released clients, unmodified.
import { OFREPWebProvider } from "@openfeature/ofrep-web-provider";
import { OpenFeature, ProviderEvents } from "@openfeature/web-sdk";
import { PostHogWebProvider } from "@posthog/openfeature-web-provider";
import posthog from "posthog-js";

Object.assign(window, { OFREPWebProvider, OpenFeature, PostHogWebProvider, ProviderEvents, posthog });
