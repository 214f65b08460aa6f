"""What the kit takes for a history that one order explains, and what it does not."""

from __future__ import annotations

import pytest

from salmon_state.testing.histories import Step, explain


def test_nothing_is_explained() -> None:
    assert explain([]) == []
    assert explain([[], []]) == []


def test_steps_that_overlap_come_in_whatever_order_explains_them() -> None:
    write = Step(0, 9, "set", writes={"one": "A"})
    before = Step(1, 2, "get", seen={"one": "START"})
    after = Step(3, 4, "get", seen={"one": "A"})
    assert explain([[write], [before, after]]) == [before, write, after]


@pytest.mark.parametrize("last", ["A", "B"])
def test_whichever_of_two_came_last(last: str) -> None:
    """As what is read at the end says: it has to be one of the steps."""
    one, other = (Step(0, 9, "set", writes={"one": state}) for state in "AB")
    end = Step(10, 11, "read all", seen={"one": last})
    assert explain([[one], [other], [end]])[-2:] == [{"A": one, "B": other}[last], end]


def test_what_has_returned_comes_first() -> None:
    write = Step(0, 1, "set", writes={"one": "A"})
    stale = Step(2, 3, "get", seen={"one": "START"})
    with pytest.raises(AssertionError, match="no order explains"):
        explain([[write], [stale]])


def test_a_sender_that_is_moved_by_half() -> None:
    """As the set of a new module and then of an old one return while `set_all` is on its way."""
    old = Step(0, 1, "set", writes={"one": "A"})
    move = Step(2, 9, "set_all", moved=1, move="MOVED")
    new = Step(3, 4, "set", writes={"two": "B"})
    again = Step(5, 6, "set", writes={"one": "C"})
    ends = [Step(10, 11, "get", seen={"one": "MOVED"}), Step(12, 13, "get", seen={"two": "B"})]
    with pytest.raises(AssertionError, match="no order explains"):
        explain([[old, move, *ends], [new, again]])
    ends = [Step(10, 11, "get", seen={"one": "C"}), Step(12, 13, "get", seen={"two": "B"})]
    assert explain([[old, move, *ends], [new, again]]) == [old, move, new, again, *ends]


def test_a_move_becomes_visible_at_once() -> None:
    """Whoever has read an old state after a new conversation began sees that one moved later."""
    old = Step(0, 1, "set", writes={"one": "A"})
    move = Step(2, 9, "set_all", move="MOVED")
    new = Step(3, 4, "set", writes={"two": "B"})
    reads = [Step(5, 6, "get", seen={"one": "A"}), Step(10, 11, "get", seen={"two": "B"})]
    ends = [Step(12, 13, "get", seen={"one": "MOVED"})]
    with pytest.raises(AssertionError, match="no order explains"):
        explain([[old, move, *ends], [new, *reads]])


def test_what_may_have_happened() -> None:
    """A store that had no answer may have made it, at some time, or never will."""
    unsure = Step(0, 1, "set", writes={"one": "A"}, sure=False)
    reads = [Step(2, 3, "get", seen={"one": "START"}), Step(4, 5, "get", seen={"one": "A"})]
    for seen in (reads[:1], reads[1:], reads):
        assert explain([[unsure], seen])
    with pytest.raises(AssertionError, match="no order explains"):
        explain([[unsure], [*reads, *reads[:1]]])
    later = Step(6, 7, "get", seen={"one": "START"})
    with pytest.raises(AssertionError, match="no order explains"):  # after its own next step
        explain([[unsure, later], [reads[1]]])
    with pytest.raises(AssertionError, match="no order explains"):  # which is over by then
        explain(
            [
                [unsure, Step(2, 3, "get", seen={"one": "B"})],
                [Step(4, 5, "set", writes={"one": "B"})],
            ]
        )


def test_two_winners_of_one_step() -> None:
    wins = [
        Step(0, 9, "compare_and_set", seen={"one": "START"}, writes={"one": name}) for name in "AB"
    ]
    with pytest.raises(AssertionError, match="no order explains"):
        explain([[win] for win in wins])
    loser = Step(0, 9, "compare_and_set", unlike={"one": "START"})
    assert explain([[wins[0]], [loser]]) == [wins[0], loser]
