/** Devices: a list, a page, the reported state and its history, signals. */

import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { Type } from "typebox";
import * as documents from "../documents.js";
import { missing } from "../errors.js";
import type { Source } from "../source.js";
import * as statements from "../statements.js";
import { cursor, Device, fieldOr, given, hours, limit, points, several, shown, span, words } from "./schemas.js";

const UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";
const USUAL = "system.cpuUsage";
const unmet = (device: string): never => missing(`device ${device} has no model and was never scanned`, "CALL ml_scan();");

export const deviceRoutes: FastifyPluginAsyncTypebox<{ source: Source }> = async (app, { source }) => {
  app.get(
    "/devices",
    {
      schema: {
        ...shown("devices", "Devices with their status", documents.Devices),
        querystring: given({
          search: Type.Optional(words("A part of the id or of the name.", ["boiler"])),
          status: Type.Optional(several(documents.Status)),
          sort: Type.Enum(statements.DEVICE_SORTS, {
            default: "name",
            description: "Of status the worst first; with a minus the other way round.",
          }),
          limit,
          cursor: Type.Optional(cursor(`^${UUID}[^\\u0000]*$`)),
        }),
      },
    },
    async (request) =>
      source.read<documents.Devices>(request, statements.devices(await source.names(request), request.query)),
  );

  app.get(
    "/devices/:device",
    {
      schema: {
        ...shown("devices", "One device: its status, incidents and anomalies", documents.DevicePage),
        params: Device,
        querystring: given(span(24)),
      },
    },
    async (request) => {
      const { device } = request.params;
      const statement = statements.device(await source.names(request), device, request.query);
      return (await source.read<documents.DevicePage | undefined>(request, statement)) ?? unmet(device);
    },
  );

  app.get(
    "/devices/:device/metrics",
    {
      schema: {
        ...shown(
          "devices",
          "Every metric of a device over a span of time",
          documents.Metrics,
          "All that are enabled, each thinned to as many points as are asked for; extremes are kept. One that measured nothing has no points.",
        ),
        params: Device,
        querystring: given({ ...span(24), points: points(200) }),
      },
    },
    (request) => source.read<documents.Metrics>(request, statements.metricsOf(request.params.device, request.query)),
  );

  app.get(
    "/devices/:device/twin",
    {
      schema: {
        ...shown("devices", "What the device reported last", documents.Twin),
        params: Device,
        querystring: given({}),
      },
    },
    (request) => source.read<documents.Twin>(request, statements.twin(request.params.device)),
  );

  app.get(
    "/devices/:device/twin/history",
    {
      schema: {
        ...shown(
          "devices",
          "Values of a field over a span of time, and its forecast",
          documents.TwinHistory,
          "Thinned to as many points as are asked for; extremes are kept. What is no measurement is left out. Beside them, what is usual then.",
        ),
        params: Device,
        querystring: given({
          field: fieldOr(USUAL),
          ...span(24),
          points: points(1000),
        }),
      },
    },
    (request) =>
      source.read<documents.TwinHistory>(request, statements.twinHistory(request.params.device, request.query)),
  );

  app.get(
    "/devices/:device/twin/anomalies",
    {
      schema: {
        ...shown("devices", "z scores of a field: needs no model", documents.TwinAnomalies),
        params: Device,
        querystring: given({
          field: fieldOr(USUAL),
          hours: hours(168),
          threshold: Type.Number({
            minimum: 0.1,
            maximum: 100,
            default: 2.5,
            description: "Standard deviations from the mean beyond which a value is an anomaly.",
          }),
        }),
      },
    },
    (request) => {
      const { field, hours, threshold } = request.query;
      const statement = statements.twinAnomalies(request.params.device, field, hours, threshold);
      return source.read<documents.TwinAnomalies>(request, statement);
    },
  );

  app.get(
    "/devices/:device/outlook",
    {
      schema: {
        ...shown("devices", "The next days of a field, and when it reaches its limits", documents.Outlook, "Needs no model."),
        params: Device,
        querystring: given({
          field: fieldOr(USUAL),
          days: Type.Integer({ minimum: 1, maximum: 30, default: 7, description: "How far to look ahead." }),
        }),
      },
    },
    async (request) => {
      const { field, days } = request.query;
      const statement = statements.outlook(await source.names(request), request.params.device, field, days);
      return source.read<documents.Outlook>(request, statement);
    },
  );

  app.get(
    "/devices/:device/signals",
    {
      schema: {
        ...shown("devices", "Each metric's last value, how well it is measured, and whether detection uses it", documents.Signals),
        params: Device,
        querystring: given({}),
      },
    },
    async (request) => {
      const { device } = request.params;
      const statement = statements.signals(await source.names(request), device);
      return (await source.read<documents.Signals | undefined>(request, statement)) ?? unmet(device);
    },
  );
};
