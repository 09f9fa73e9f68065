// Tests of the poll on SQLite in memory: no Wasm, no hosts, no waiting.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import module from "./module.js";
import { Machine } from "./telegraft/testing.js";

let machine;

beforeEach(() => {
  machine = new Machine(module);
});

function createPoll(question = "Tea?", options = ["yes", "no"]) {
  return machine.apply("CreatePoll", { question, options }).pollId;
}

function refused(code, message, method, fields) {
  assert.throws(() => machine.apply(method, fields), { name: "Failure", code, message });
}

test("votes are counted, once a voter", () => {
  const pollId = createPoll();
  for (const [voter, option] of [["ada", 0], ["bob", 0], ["ada", 1]]) {
    machine.apply("Vote", { pollId, voter, option });
  }
  const { options } = machine.read("GetPoll", { pollId });
  assert.deepEqual(options.map(({ text, votes }) => [text, votes]), [["yes", 1n], ["no", 1n]]);
});

test("a vote says whether it changed one", () => {
  const pollId = createPoll();
  const changed = [0, 0, 1].map((option) => machine.apply("Vote", { pollId, voter: "ada", option }).changed);
  assert.deepEqual(changed, [false, false, true]);
});

test("a closed poll takes no votes", () => {
  const pollId = createPoll();
  machine.apply("ClosePoll", { pollId });
  machine.apply("ClosePoll", { pollId });
  refused("FAILED_PRECONDITION", "the poll is closed", "Vote", { pollId, voter: "ada", option: 0 });
  assert.ok(machine.read("GetPoll", { pollId }).closed);
});

test("the newest poll is listed first", () => {
  const ids = [createPoll("First?"), createPoll("Second?")];
  assert.deepEqual(machine.read("ListPolls").polls.map(({ pollId }) => pollId), ids.reverse());
});

test("what is wrong is said", () => {
  for (const [question, options, message] of [
    ["", ["a", "b"], "question must have 1 to 200 bytes"],
    ["é".repeat(101), ["a", "b"], "question must have 1 to 200 bytes"],
    ["Tea?", ["a"], "a poll has 2 to 10 options"],
    ["Tea?", ["a", ""], "option 1 must have 1 to 100 bytes"],
    ["Tea?", ["a", "a"], "options must differ"],
  ]) {
    refused("INVALID_ARGUMENT", message, "CreatePoll", { question, options });
  }
  refused("NOT_FOUND", "no such poll", "ClosePoll", { pollId: "no id" });
  refused("INVALID_ARGUMENT", "the poll has no option 2", "Vote", { pollId: createPoll(), voter: "ada", option: 2 });
});
