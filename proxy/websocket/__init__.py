"""Websockets through the proxy: one call that asks for another protocol, and the two sockets it becomes.

    GET, Upgrade: websocket --handshake.prepare--> route, Host and Origin, policies as for any call, key choice
    attempt.try_upgrade  -> upstream's 101, or an answer that is judged like any other failed try
    session.converse     -> 101 to the client, then frames.Frames and relay.Relay move bytes until both said goodbye

The frames themselves are moved as the bytes they came in; only their headers are read, to know where a Close frame
stands (and, where the chain counts tokens, what ``response.done`` says). So fragments, pings and masks are end to end,
nothing is held but what one read brought, and a message may be of any size. Compression is not negotiated: the usage
could not be read, and a frame's first bits would no longer say what it is.

A call that asks for no upgrade never imports this package.
"""
