"""What may go wrong with the bytes between host and runtime: rows 1 to 15."""

from __future__ import annotations

from .promise import NODE, RUNTIME, Promise, Section

WIRE = Section(
    "Bytes and messages",
    (
        Promise(
            1,
            (RUNTIME, NODE),
            "the bytes end inside a frame",
            "The side that reads says so: `REMOTE_PROTOCOL_ERROR`, with `truncated` as its kind. "
            "Nothing of the half frame is used, and every pending call settles.",
        ),
        Promise(
            2,
            (RUNTIME, NODE),
            "a frame arrives byte by byte, or many arrive at once",
            "The messages are the same wherever the bytes are cut, and a large frame in small "
            "pieces costs work in proportion to its length.",
        ),
        Promise(
            3,
            (RUNTIME, NODE),
            "a header announces more bytes than the limit",
            "It is refused with `FRAME_TOO_LARGE` from its four bytes alone, before memory is "
            "taken, and the connection ends.",
        ),
        Promise(
            4,
            (NODE,),
            "a caller makes a request over the limit",
            "The call fails where it was made. No byte of it is sent, and the connection goes on.",
        ),
        Promise(
            5,
            (RUNTIME, NODE),
            "what arrives is no protocol at all",
            "The error shows how the garbage began. Nobody searches it for the next frame: that "
            "process is ended.",
        ),
        Promise(
            6,
            (RUNTIME, NODE),
            "host and runtime speak different versions of the protocol",
            "`VERSION_MISMATCH` names both versions and the fix, and no request is sent.",
        ),
        Promise(
            7,
            (RUNTIME,),
            "a kind, method or field that nobody knows",
            "An unknown kind, method or parameter fails that one request, by name. What a later "
            "version may add (elements, options, events) is ignored.",
        ),
        Promise(
            8,
            (RUNTIME,),
            "the id of an unsettled request is used again",
            "The second request is refused with `DUPLICATE_ID`; the first goes on unharmed.",
        ),
        Promise(
            9,
            (NODE,),
            "a reply for an id that is unknown or settled",
            "It is counted and dropped. It throws nothing, and never reaches a later request with "
            "the same id.",
        ),
        Promise(
            10,
            (RUNTIME, NODE),
            "request ids reach their end",
            "Ids wrap over those in use, none is given twice, and they stay integers on the wire.",
        ),
        Promise(
            11,
            (RUNTIME,),
            "a message nests without end",
            "Nesting deeper than 32 is `DEPTH_EXCEEDED` for that request alone, and takes no "
            "memory to speak of.",
        ),
        Promise(
            12,
            (RUNTIME,),
            "a header promises more than the frame holds",
            "It is a `DECODE_ERROR`. Nothing of the promised size is allocated.",
        ),
        Promise(
            13,
            (RUNTIME, NODE),
            "keys, types and bytes that one language would take and the other not",
            "Both ends refuse the same payloads with the same code, and only the request that they "
            "belong to fails.",
        ),
        Promise(
            14,
            (RUNTIME, NODE),
            "text that is no valid Unicode",
            "It fails its own request, with the field. Sound text of every plane comes back as it "
            "was sent.",
        ),
        Promise(
            15,
            (RUNTIME,),
            "one character of a stream is made of several tokens",
            "No replacement character is sent before the character is whole; one that the end cuts "
            "off is flushed with the end.",
        ),
    ),
)
