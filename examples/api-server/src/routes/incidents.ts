/** Incidents: lists, one, what people say of them, and what happens to them as a stream. */

import { PassThrough } from "node:stream";
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import type { FastifyReply } from "fastify";
import { Type } from "typebox";
import { call } from "../database.js";
import * as documents from "../documents.js";
import { missing } from "../errors.js";
import type { Source } from "../source.js";
import * as statements from "../statements.js";
import { cursor, deviceId, given, Incident, limit, moment, note, number, several, shown, words } from "./schemas.js";

/** Proxies end what is silent for long, and a client knows from it that the server is there. */
const HEARTBEAT = 15_000;

export const incidentRoutes: FastifyPluginAsyncTypebox<{ source: Source }> = async (app, { source }) => {
  app.get(
    "/incidents",
    {
      schema: {
        ...shown("incidents", "Incidents, the latest first", documents.Incidents, "Those that are resolved, and those of retired devices, too."),
        querystring: given({
          state: Type.Optional(several(documents.State)),
          severity: Type.Optional(documents.Severity),
          kind: Type.Optional(words("What is wrong.", ["stuck", "level", "silent"])),
          device: Type.Optional(deviceId),
          search: Type.Optional(words("A part of the device's name or id, of the summary or of the note.", ["boiler"])),
          from: Type.Optional(moment("Those that were still seen then, or later.")),
          to: Type.Optional(moment("Those that had begun by then.")),
          fleet: Type.Optional(number("Of an incident: it, and those that /fleet/incidents takes for one with it.")),
          folded: Type.Boolean({ default: false, description: "Without those that /fleet/incidents has, many as one." }),
          limit,
          cursor: Type.Optional(cursor("^[0-9]{1,17}-[0-9]{1,18}$")),
        }),
      },
    },
    async (request) => {
      const statement = statements.incidents(await source.names(request), request.query);
      const found = await source.read<documents.Incidents | undefined>(request, statement);
      const hint = "SELECT device_id, device_name FROM ml_device;";
      return found ?? missing(`there is no device ${request.query.device}`, hint);
    },
  );

  app.get(
    "/incidents/:id",
    {
      schema: {
        ...shown("incidents", "One incident, with what makes its case and what happened to it", documents.OneIncident),
        params: Incident,
        querystring: given({}),
      },
    },
    async (request) => {
      const { id } = request.params;
      const statement = statements.incident(await source.names(request), id);
      const found = await source.read<documents.OneIncident | undefined>(request, statement);
      return found ?? missing(`there is no incident ${id}`, "GET /incidents");
    },
  );

  for (const [path, does] of [
    ["acknowledge", "Say that somebody knows of an incident"],
    ["resolve", "End an incident"],
  ] as const) {
    app.post(
      `/incidents/:id/${path}`,
      {
        config: { level: "act" },
        schema: {
          ...shown("incidents", does, documents.Said, "Done twice it changes nothing, and says who was first."),
          params: Incident,
          querystring: given({}),
          body: given({
            note: Type.Optional(note),
          }),
        },
      },
      (request) => {
        const statement = call(`ml_${path}`, { incident_id: request.params.id, note: request.body.note });
        return source.write<documents.Said>(request, statement);
      },
    );
  }

  app.post(
    "/incidents/:id/not-a-fault",
    {
      config: { level: "act" },
      schema: {
        ...shown(
          "incidents",
          "Say that an incident is no fault",
          documents.NotAFault,
          "Gives the smallest rule or quiet window that would have kept it quiet, and what is then no longer told. With apply it is made, and the incident is resolved.",
        ),
        params: Incident,
        querystring: given({}),
        body: given({
          note: Type.Optional(note),
          apply: Type.Optional(Type.Boolean({ default: false, description: "Whether to make it." })),
        }),
      },
    },
    (request) => {
      const statement = call("ml_not_a_fault", { incident_id: request.params.id, ...request.body });
      return source.write<documents.NotAFault>(request, statement);
    },
  );

  app.get(
    "/events",
    {
      exposeHeadRoute: false, // it would not end
      schema: {
        tags: ["incidents"],
        summary: "What happens to incidents and to scans, as server-sent events",
        description:
          "Each event has its number as id, what happened as event (opened, escalated, acknowledged, resolved; stalled and resumed, of scans), and a document as data. " +
          "A client that sends Last-Event-ID, as browsers do when they connect again, gets first what it has missed.",
        headers: Type.Object({
          "last-event-id": Type.Optional(number("The number of the last event that was seen.")),
        }),
        querystring: given({}),
        response: {
          200: { description: "A stream that does not end.", content: { "text/event-stream": { schema: documents.Happening } } },
          "4xx": documents.Problem,
          "5xx": documents.Problem,
        },
      },
    },
    async (request, reply) => {
      const stream = new PassThrough();
      const tell = (event: documents.Happening) =>
        void stream.write(`id: ${event.event_id}\nevent: ${event.event}\ndata: ${JSON.stringify(event)}\n\n`);
      stream.write("retry: 3000\n\n");
      await source.feed.follow(request.headers["last-event-id"], tell, request.gone);
      const heartbeat = setInterval(() => stream.write(":\n\n"), HEARTBEAT);
      request.gone.addEventListener("abort", () => {
        clearInterval(heartbeat);
        stream.end();
      });
      reply.header("Content-Type", "text/event-stream").header("Cache-Control", "no-store").header("X-Accel-Buffering", "no");
      return (reply as FastifyReply).send(stream);
    },
  );
};
