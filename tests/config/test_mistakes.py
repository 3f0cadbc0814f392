"""Every kind of mistake, with the exact message that it gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Mistakes = Callable[..., list[str]]
BASE = "upstreams: {demo: {api: demo}}\nchains: {a: []}\nroutes: [{upstream: demo, chain: a}]\n"
DURATION = "a number with a unit, such as 250ms, 5s, 10m, 1h or 7d"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "admin: {prot: 1}",
            '4:9: admin.prot: unknown key "prot"; did you mean "port"?; allowed: enabled, host, hosts, '
            "port, tls, token",
        ),
        (
            "sever: {}",
            '4:1: sever: unknown key "sever"; did you mean "server"?; allowed: admin, chains, data, include, keys, '
            "ledger, log, models, prices, routes, server, state, upstreams",
        ),
        ("server: {port: x}", "4:16: server.port: must be a whole number, not a text"),
        ('server: {port: "80"}', "4:16: server.port: must be a whole number, not a text: take off the quotes"),
        ("server: {port: 1.5}", "4:16: server.port: must be a whole number, not a number with a fraction"),
        ("server: {port: true}", "4:16: server.port: must be a whole number, not true or false"),
        ("server: {port: []}", "4:10: server.port: must be a whole number, not a list"),
        ("server: {port: 70000}", "4:16: server.port: must be at most 65535"),
        ("server: {port: }", "4:16: server.port: must be a whole number, not nothing"),
        ("server: 5", "4:9: server: must be a map (key: value), not a whole number"),
        ("server: [a]", "4:1: server: must be a map (key: value), not a list"),
        ("server: {host: 5}", "4:16: server.host: must be a text, not a whole number: put it in quotes"),
        ('server: {host: ""}', "4:16: server.host: must not be empty"),
        ("server: {hosts: a}", "4:17: server.hosts: must be a list, not a text"),
        ("server: {drain: 30}", f"4:17: server.drain: must be a duration: {DURATION}, not the bare number 30"),
        ("server: {drain: 5 s}", f'4:17: server.drain: must be a duration: {DURATION}, not "5 s"'),
        ("server: {header_timeout: 0}", "4:26: server.header_timeout: must be greater than 0"),
        (
            "server: {max_body: 64}",
            "4:20: server.max_body: must be a size: a number with a unit, such as 512KiB, 64MiB or 1MB, "
            "not the bare number 64",
        ),
        (
            "server: {trusted_proxies: [x]}",
            "4:10: server.trusted_proxies: must be an address or a network, such as 10.0.0.5, 10.0.0.0/8 or ::1",
        ),
        ("server: {unix: /s, port: 1}", "4:1: server: unix excludes host and port: listen on one of the two"),
        ("server: {tls: {cert: /c}}", "4:10: server.tls.key: is required"),
        ("log: {access: on}", "4:15: log.access: must be true or false, not a text; did you mean true?"),
        ("log: {access: False}", "4:15: log.access: must be true or false, not a text; did you mean false?"),
        (
            "log: {level: warn}",
            '4:14: log.level: must be one of debug, info, warning, error, not "warn"; did you mean "warning"?',
        ),
        ("state: redis", "4:8: state: must be memory, or a Redis URL such as redis://host:6379/0"),
        (
            "ledger: sqlite://",
            "4:9: ledger: must be sqlite:///path/to/file.db (what follows sqlite:// is the file) or "
            "postgresql://user@host/database",
        ),
        (
            "admin: {host: 0.0.0.0}",
            "4:15: admin.token: is required because admin.host is not loopback: set it, such as token: "
            "${ADMIN_TOKEN}, or host: 127.0.0.1",
        ),
        ("models: {fast: {}}", "4:10: models.fast.model: is required"),
        (
            "models: {fast: {model: x, upstream: dmeo}}",
            '4:37: models.fast.upstream: there is no upstream "dmeo"; did you mean "demo"?; allowed: demo',
        ),
        ("prices: {m: {input: -1}}", "4:21: prices.m.input: must be at least 0"),
        (
            "data: ${NOPE}",
            "4:7: data: the environment variable NOPE is not set: set it, or give a default with ${NOPE:-default}",
        ),
        ("log: {level: info}\nlog: {}", '5:1: the key "log" is here twice; the first stands in line 4'),
    ],
)
def test_a_mistake_in_a_section(mistakes: Mistakes, text: str, message: str) -> None:
    found = mistakes(BASE + text)
    assert found == [f"config.yaml:{message}"]


@pytest.mark.parametrize(
    ("upstream", "message"),
    [
        ("{}", "1:13: upstreams.u.api: is required"),
        ("{api: openai}", "1:13: upstreams.u: base_url is required with api: openai"),
        (
            "{api: demo, base_url: http://x}",
            "1:13: upstreams.u: base_url is not used with api: demo, which is built in",
        ),
        (
            "{api: openai, base_url: api.openai.com}",
            "1:40: upstreams.u.base_url: must be a URL such as https://api.example.com/v1, "
            "without user, query or fragment",
        ),
        ("{api: demo, keys: p}", '1:34: upstreams.u.keys: there is no key pool "p"; keys: defines none'),
        (
            "{api: demo, timeouts: {total: 1}}",
            f"1:46: upstreams.u.timeouts.total: must be a duration or none: {DURATION}, not the bare number 1",
        ),
        ("{api: demo, tls: {cert: /c}}", "1:28: upstreams.u.tls: cert and key belong together: give both or neither"),
        ("{api: demo, health: {path: x}}", "1:43: upstreams.u.health.path: does not have the form ^/"),
        (
            "{api: demo, proxy: socks5://x}",
            "1:35: upstreams.u.proxy: must be the URL of an HTTP proxy, such as http://proxy.example.com:3128",
        ),
    ],
)
def test_a_mistake_in_an_upstream(mistakes: Mistakes, upstream: str, message: str) -> None:
    assert mistakes(f"upstreams: {{u: {upstream}}}") == [f"config.yaml:{message}"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("[]", "1:12: keys.p.keys: must not be empty"),
        ("[{id: a}]", "1:19: keys.p.keys.0.secret: is required"),
        ("[{id: a, secret: 5}]", "1:35: keys.p.keys.0.secret: must be a text, not a whole number: put it in quotes"),
        ('[{id: a, secret: ""}]', "1:19: keys.p.keys.0: secret is empty: set it, or give the key enabled: false"),
        (
            '[{id: a, secret: "x y"}]',
            "1:19: keys.p.keys.0: secret holds a space, a line end or a character that no HTTP header can carry",
        ),
        ("[{id: a b, secret: x}]", "1:24: keys.p.keys.0.id: does not have the form ^[A-Za-z0-9_.:@-]+$"),
        (
            "[{id: a, secret: x}, {id: a, secret: y}]",
            '1:44: keys.p.keys.1.id: the key id "a" is already taken in config.yaml:1:24; '
            "ids are unique over all pools",
        ),
        ("[{id: a, secret: x, max_rpm: 0}]", "1:47: keys.p.keys.0.max_rpm: must be at least 1"),
        (
            "[{id: a, secret: x, upstream: u}]",
            '1:48: keys.p.keys.0.upstream: there is no upstream "u"; upstreams: defines none',
        ),
    ],
)
def test_a_mistake_in_a_key(mistakes: Mistakes, keys: str, message: str) -> None:
    assert mistakes(f"keys: {{p: {{keys: {keys}}}}}") == [f"config.yaml:{message}"]


def test_an_unknown_strategy_lists_the_known_ones(mistakes: Mistakes) -> None:
    assert mistakes("keys: {p: {strategy: [wieghted], keys: [{id: a, secret: x}]}}") == [
        "config.yaml:1:23: keys.p.strategy.0: must be one of task, priority, round_robin, weighted, least_loaded, "
        'cheapest, fastest, sticky, not "wieghted"; did you mean "weighted"?'
    ]


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("{}", "3:10: routes.0.upstream: is required"),
        (
            "{match: {path: v1/*}, upstream: demo, chain: a}",
            "3:25: routes.0.match.path: matches no path: paths begin with /, as in /v1/*",
        ),
        (
            "{match: {not: {path: [/a, b]}}, upstream: demo, chain: a}",
            "3:25: routes.0.match.not.path: matches no path: paths begin with /, as in /v1/*",
        ),
        ("{upstream: x, chain: a}", '3:21: routes.0.upstream: there is no upstream "x"; allowed: demo'),
        ("{upstream: demo, chain: b}", '3:34: routes.0.chain: there is no chain "b"; allowed: a'),
        (
            "{upstream: demo, chain: a, allow_chains: [b]}",
            '3:52: routes.0.allow_chains.0: there is no chain "b"; allowed: a',
        ),
        (
            "{upstream: demo, chain: a, match: {modle: x}}",
            '3:45: routes.0.match.modle: unknown key "modle"; did you mean "model"?; allowed: headers, ip, method, '
            "model, not, path, project, tags, task",
        ),
        (
            "{upstream: demo, chain: a, match: {not: {ip: x}}}",
            "3:55: routes.0.match.not.ip: must be an address or a network, such as 10.0.0.5, 10.0.0.0/8 or ::1",
        ),
        (
            "{upstream: demo, chain: a, match: {model: 5}}",
            "3:52: routes.0.match.model: must be a text, not a whole number: put it in quotes",
        ),
        (
            "{upstream: demo, chain: a, match: {model: []}}",
            "3:37: routes.0.match: model: an empty list matches nothing; leave model out to match every call",
        ),
    ],
)
def test_a_mistake_in_a_route(mistakes: Mistakes, route: str, message: str) -> None:
    found = mistakes(f"upstreams: {{demo: {{api: demo}}}}\nchains: {{a: []}}\nroutes: [{route}]")
    assert found[0] == f"config.yaml:{message}"


ALL = "account, fallback, rate_limit, signed"
LIMIT = "max_wait, mode, name, on_error, on_limit, rpm, when"


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ("account", "1:15: chains.c: must be a list of policies, not a text; [] is a plain forward"),
        ("[acount]", f'1:16: chains.c.0: unknown policy "acount"; did you mean "account"?; allowed: {ALL}'),
        ("[acount: {}]", f'1:16: chains.c.0.acount: unknown policy "acount"; did you mean "account"?; allowed: {ALL}'),
        ("[5]", "1:16: chains.c.0: must be a policy's name, {name: options} or {use: chain}, not a whole number"),
        ("[[]]", "1:16: chains.c.0: must be a policy's name, {name: options} or {use: chain}, not a list"),
        ("[{}]", "1:16: chains.c.0: must be a policy's name, {name: options} or {use: chain}, not an empty map"),
        (
            "[{rate_limit: , rpm: 5}]",
            "1:16: chains.c.0: the options of rate_limit must be indented further than its name: rpm",
        ),
        (
            "[{rate_limit: {}, account: {}}]",
            "1:16: chains.c.0: an entry is one policy, here are account, rate_limit; options stand below the "
            "policy's name",
        ),
        (
            "[rate_limit: 5]",
            "1:28: chains.c.0.rate_limit: the options of rate_limit must be a map (key: value), not a whole number",
        ),
        ("[rate_limit: {rpm: 0}]", "1:34: chains.c.0.rate_limit.rpm: must be at least 1"),
        (
            "[rate_limit: {wehn: {}}]",
            f'1:29: chains.c.0.rate_limit.wehn: unknown key "wehn"; did you mean "when"?; allowed: {LIMIT}',
        ),
        (
            "[rate_limit: {on_limit: wiat}]",
            '1:39: chains.c.0.rate_limit.on_limit: must be one of reject, wait, not "wiat"; did you mean "wait"?',
        ),
        (
            "[rate_limit: {mode: of}]",
            '1:35: chains.c.0.rate_limit.mode: must be one of enforce, observe, off, not "of"; did you mean "off"?',
        ),
        (
            "[rate_limit: {name: a b}]",
            "1:35: chains.c.0.rate_limit.name: does not have the form ^[A-Za-z0-9_.-]{1,60}$",
        ),
        (
            "[rate_limit: {when: {tokens: 5}}]",
            '1:44: chains.c.0.rate_limit.when.tokens: must be a comparison such as ">= 4000", "< 200" or "200-4000"',
        ),
        (
            "[rate_limit: {name: x}, account: {name: x}]",
            '1:39: chains.c.1.account.name: the name "x" is already taken in this chain, in config.yaml:1:16',
        ),
        ("[fallback]", "1:16: chains.c.0.targets: is required"),
        (
            "[fallback: {targets: [{upstream: x}]}]",
            '1:48: chains.c.0.fallback.targets.0.upstream: there is no upstream "x"; upstreams: defines none',
        ),
        ("[use: d]", '1:21: chains.c.0.use: there is no chain "d"; allowed: c'),
        ("[use: [d]]", "1:21: chains.c.0.use: must be the name of a chain"),
        ("[use: c]", "1:21: chains.c.0.use: chains use one another in a circle: c -> c"),
        (
            "['broken:X']",
            "1:16: chains.c.0: the policy broken:X cannot be loaded: ImportError: No module named 'broken'",
        ),
    ],
)
def test_a_mistake_in_a_chain(mistakes: Mistakes, chain: str, message: str) -> None:
    assert mistakes(f"chains: {{c:   {chain}}}") == [f"config.yaml:{message}"]


def test_all_mistakes_come_at_once_in_the_order_of_the_file(mistakes: Mistakes) -> None:
    found = mistakes(
        "server: {port: x, drain: 5}\nchains: {a: [acount, use: b]}\nroutes: [{upstream: u, chain: z}]\nkeys: {p: 5}\n"
    )
    assert [line.split(": ")[1] for line in found] == [
        "server.port",
        "server.drain",
        "chains.a.0",
        "chains.a.1.use",
        "routes.0.upstream",
        "routes.0.chain",
        "keys.p",
    ]


SECRET = "sk-topsecretvalue"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log: {level: '${S}'}", "log.level: must be one of debug, info, warning, error, not what ${S} brought in"),
        ("server: {port: '${S}'}", "server.port: must be a whole number, not a text"),
        ("server: {drain: '${S}'}", f"server.drain: must be a duration: {DURATION}, not what ${{S}} brought in"),
        ("chains: {c: [signed: {word: '${S}'}]}", "signed.word: what ${S} brought in is not allowed here"),
        ("chains: {c: ['${S}']}", 'chains.c.0: unknown policy "${S}"; allowed: ' + ALL),
        (
            "models: {m: {model: x, upstream: '${S}'}}",
            "models.m.upstream: there is no upstream of the name that ${S} brought in; upstreams: defines none",
        ),
        ("keys: {p: {keys: [{id: a, secret: '${S} x'}]}}", "keys.p.keys.0: secret holds a space"),
        ("include: '${S}'", ""),
    ],
)
def test_no_message_shows_what_came_from_outside(mistakes: Mistakes, text: str, message: str) -> None:
    found = mistakes(text, env={"S": SECRET})
    assert message in found[0]
    if not text.startswith("include"):
        assert "topsecret" not in "".join(found).lower()
