"""Row 8: the id of an unsettled request is used again."""

from __future__ import annotations

from tests.faults.peer import END, ERROR, RESULT, Peer


def test_the_second_is_refused_and_the_first_unharmed(peer: Peer) -> None:
    for method, params in (("echo", {"data": 2}), ("fault_sleep", {"seconds": 0.0})):
        peer.request("fault_sleep", {"seconds": 0.2}, request=5)
        peer.request(method, params, request=5)
        kind, _, error = peer.settled(5)
        assert (kind, error["code"], error["details"]) == (
            ERROR,
            "DUPLICATE_ID",
            {"duplicate": True},
        )
        assert peer.settled(5)[0] == RESULT


def test_a_stream_whose_id_is_used_again_goes_on(peer: Peer) -> None:
    peer.request("stream_echo", {"count": 5}, {"credit": 2}, request=6)
    assert peer.next_of(6)[3] == [0, 1]
    peer.request("echo", {"data": "second"}, request=6)
    assert peer.next_of(6)[2]["code"] == "DUPLICATE_ID"
    peer.send([7, 6, 100])
    assert peer.next_of(6)[3] == [2, 3, 4]
    assert peer.next_of(6)[0] == END


def test_an_id_is_free_again_once_its_request_is_settled(peer: Peer) -> None:
    for data in range(50):
        peer.request("echo", {"data": data}, request=9)
    assert [peer.settled(9)[2] for _ in range(50)] == list(range(50))
