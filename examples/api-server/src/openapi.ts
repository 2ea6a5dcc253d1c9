/** What the OpenAPI document says beside the routes themselves. */

import type { FastifyDynamicSwaggerOptions } from "@fastify/swagger";

type Transform = NonNullable<FastifyDynamicSwaggerOptions["transformObject"]>;
type Document = NonNullable<FastifyDynamicSwaggerOptions["openapi"]>;

export const OPENAPI: Document = {
  openapi: "3.1.0", // whose schemas are JSON schemas
  info: {
    title: "pyml",
    description:
      "Trouble in device telemetry, and what is ahead. Each route is one SQL statement. A device goes by the id that it has in the history. " +
      "A list gives a page and, as `next`, the cursor of the one after it. An error has a message in words and, as hint, what to type next.",
    version: "1",
  },
  tags: [
    { name: "devices", description: "Devices: how they are, what they report, how well it is measured." },
    { name: "incidents", description: "Trouble of devices, what people say of it, and what happens to it." },
    { name: "rules", description: "What people know: rules, and times in which nothing is told." },
    { name: "fleet", description: "All devices together." },
    { name: "models", description: "Train, detect, forecast." },
    { name: "server", description: "Whether all is well, for people and for Prometheus." },
  ],
  components: {
    securitySchemes: {
      token: {
        type: "http",
        scheme: "bearer",
        description: "A token of level read, act (the same, and acknowledge and resolve) or train (the same, and train). A server without tokens asks for none.",
      },
    },
  },
};

interface Operation {
  requestBody?: { required: boolean; content: Record<string, { schema: { required?: string[] } }> };
}

/** A body that has to say nothing may be left out, which the plugin does not know. */
export const withOptionalBodies: Transform = (document) => {
  const made = (document as { openapiObject: { paths: Record<string, Record<string, Operation>> } }).openapiObject;
  for (const { requestBody } of Object.values(made.paths).flatMap((path) => Object.values(path))) {
    if (requestBody) requestBody.required = Object.values(requestBody.content).some(({ schema }) => schema.required?.length);
  }
  return made as unknown as ReturnType<Transform>;
};
