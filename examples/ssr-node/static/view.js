// What the flags mean for the shop. The server renders it and the browser takes it over, so there is only one of it.

export const FLAGS = ["checkout-button", "new-navigation"];

export function viewOf(flags, payloads) {
  const colour = flags["checkout-button"];
  return {
    colour: ["green", "blue"].includes(colour) ? colour : "plain",
    label: String(payloads["checkout-button"]?.label ?? "Add to basket"),
    hasBanner: flags["new-navigation"] === true,
  };
}
