/**
 * The documents that the database gives, as JSON schemas: the OpenAPI page shows
 * them, the types of TypeScript follow from them, and the tests hold them against
 * what a real server says.
 */

export * from "./documents/devices.js";
export * from "./documents/fleet.js";
export * from "./documents/incidents.js";
export * from "./documents/models.js";
export * from "./documents/rules.js";
export * from "./documents/shared.js";
