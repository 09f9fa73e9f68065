"""Tests of the poll on SQLite in memory: no Wasm, no hosts, no waiting."""

import unittest

from module import module
from telegraft import Failure
from telegraft.testing import Machine


class Polls(unittest.TestCase):
    def setUp(self):
        self.machine = Machine(module)

    def create(self, question="Tea?", options=("yes", "no")):
        return self.machine.apply("CreatePoll", question=question, options=options).poll_id

    def refused(self, code, message, method, **fields):
        with self.assertRaises(Failure) as caught:
            self.machine.apply(method, **fields)
        self.assertEqual((caught.exception.code, caught.exception.message), (code, message))

    def test_votes_are_counted_once_a_voter(self):
        poll = self.create()
        for voter, option in (("ada", 0), ("bob", 0), ("ada", 1)):
            self.machine.apply("Vote", poll_id=poll, voter=voter, option=option)
        found = self.machine.read("GetPoll", poll_id=poll)
        self.assertEqual([(option.text, option.votes) for option in found.options], [("yes", 1), ("no", 1)])

    def test_a_vote_says_whether_it_changed_one(self):
        poll = self.create()
        changed = [self.machine.apply("Vote", poll_id=poll, voter="ada", option=n).changed for n in (0, 0, 1)]
        self.assertEqual(changed, [False, False, True])

    def test_a_closed_poll_takes_no_votes(self):
        poll = self.create()
        for _ in range(2):
            self.machine.apply("ClosePoll", poll_id=poll)
        self.refused("FAILED_PRECONDITION", "the poll is closed", "Vote", poll_id=poll, voter="ada", option=0)
        self.assertTrue(self.machine.read("GetPoll", poll_id=poll).closed)

    def test_the_newest_poll_is_listed_first(self):
        first, second = self.create("First?"), self.create("Second?")
        self.assertEqual([poll.poll_id for poll in self.machine.read("ListPolls").polls], [second, first])

    def test_what_is_wrong_is_said(self):
        for question, options, message in (
            ("", ["a", "b"], "question must have 1 to 200 bytes"),
            ("é" * 101, ["a", "b"], "question must have 1 to 200 bytes"),
            ("Tea?", ["a"], "a poll has 2 to 10 options"),
            ("Tea?", ["a", ""], "option 1 must have 1 to 100 bytes"),
            ("Tea?", ["a", "a"], "options must differ"),
        ):
            self.refused("INVALID_ARGUMENT", message, "CreatePoll", question=question, options=options)
        self.refused("NOT_FOUND", "no such poll", "ClosePoll", poll_id="no id")
        self.refused("INVALID_ARGUMENT", "the poll has no option 2", "Vote", poll_id=self.create(), voter="ada", option=2)


if __name__ == "__main__":
    unittest.main()
