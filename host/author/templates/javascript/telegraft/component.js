// The module's face to the host: the exports of the WIT world `state-machine`, and the host's store behind `Store`.
// Imported only inside the component, where the bindings (`telegraft:machine/…`) exist.

import { write } from "telegraft:machine/log@0.1.0";
import { execute, query } from "telegraft:machine/store@0.1.0";

import project from "telegraft-module";
import { Context, Failure, Store, StoreError } from "./index.js";

const INTEGER_MIN = -(1n << 63n);
const INTEGER_MAX = (1n << 63n) - 1n;

function value(param) {
  switch (typeof param) {
    case "string":
      return { tag: "text", val: param };
    case "bigint":
      if (param < INTEGER_MIN || param > INTEGER_MAX) {
        throw new StoreError("invalid", `the parameter ${param} is beyond SQLite's integers, which have 64 bits`);
      }
      return { tag: "integer", val: param };
    case "number":
      return Number.isSafeInteger(param) ? { tag: "integer", val: BigInt(param) } : { tag: "real", val: param };
    case "boolean":
      return { tag: "integer", val: param ? 1n : 0n };
  }
  if (param === null) {
    return { tag: "null" };
  }
  if (param instanceof Uint8Array) {
    return { tag: "blob", val: param };
  }
  throw new StoreError("invalid", `a parameter is ${typeof param}: want null, bigint, number, string, boolean or Uint8Array`);
}

function asked(run, sql, params) {
  const values = params.map(value);
  try {
    return run(sql, values);
  } catch (error) {
    const payload = error?.payload;
    throw payload?.tag ? new StoreError(payload.tag, payload.val) : error;
  }
}

class HostStore extends Store {
  execute(sql, ...params) {
    return asked(execute, sql, params);
  }

  rows(sql, ...params) {
    const { columns, values } = asked(query, sql, params);
    const rows = [];
    for (let at = 0; at < values.length; at += columns.length) {
      rows.push(values.slice(at, at + columns.length).map((found) => (found.tag === "null" ? null : found.val)));
    }
    return { columns, rows };
  }
}

function answered(answer, { index, timeUs, entropy }, ...rest) {
  try {
    return answer(new HostStore(), new Context(index, timeUs, entropy), ...rest);
  } catch (failure) {
    if (failure instanceof Failure) {
      // The bindings hand over a result's error as what is thrown.
      throw { code: failure.code.toLowerCase().replaceAll("_", "-"), message: failure.message };
    }
    throw failure;
  }
}

project.log = write;
// There is no standard output: what is logged at the top of a module, when it is built, is lost.
for (const [method, level] of [["debug", "debug"], ["log", "info"], ["info", "info"], ["warn", "warn"], ["error", "error"]]) {
  console[method] = (...what) => write(level, what.map(String).join(" "));
}

export const machine = {
  describe() {
    const { name, version, schema, service } = project;
    return { name, version, schema, service };
  },
  init(context, fromSchema) {
    answered((...all) => project.init(...all), context, fromSchema);
  },
  apply(context, method, command) {
    return answered((...all) => project.apply(...all), context, method, command);
  },
  query(context, method, request) {
    return answered((...all) => project.read(...all), context, method, request);
  },
};
