// Package server speaks HTTP, and nothing else in the program does. It binds requests to the generated routes, asks
// pins and auth, and renders what they answer.
//
// It owns routes, authentication headers, CORS, the error envelope, request limits, the access log, request metrics,
// health, the documentation page, and the gateway: boxo's, over blockservices that are given to it, with a guard around
// it. It must not know gorm, Kubo or Lotus, nor decide anything about pins, nor where blocks come from.
//
// # The way of a request
//
//	hosts of content    CID.ipfs.HOSTNAME only: the gateway, and nothing else of what follows
//	normalise path      double and trailing slashes are served in place; nothing is ever redirected, except below /ipfs
//	observe             request id, CORS headers, access log, metrics, write deadlines; the only caller of the error
//	                    handler
//	recover             a panic becomes an ordinary error
//	route               unknown path 404, other method 405
//	admit               API routes only, before anything of the request is looked at: whose token is it, has it the scope
//	                    of the operation, is the account suspended, has its plan requests of this kind left
//	named policy        routes below policy/NAME only: it must exist
//	room                what stores more only: there must be some
//	canonical query     GET /pins only: what clients really send becomes what the generated binding takes
//	generated wrapper   binds parameters
//	handler             validates with spec, asks pins (and, for deals and receipts, Cold), renders with spec or v1
//
// The Pinning Service API lives below Config.BasePath, our own API below /api/v1. Each is generated from its document:
// openapi.yaml here, api-v1.yaml in package v1.
//
// # The way of a read
//
//	limit               so many at once
//	admit               token, signed link or nobody; the denylist; whether the root is pinned, so that it may be fetched
//	mend                what boxo reads differently than the specification: entity-bytes, only-if-cached
//	boxo's handler      over all blocks, or over hot ones alone when nothing may be fetched
//	blocks              every block passes the denylist; why one could not be read is kept, because boxo loses it
//	guard               the tier goes into the header; errors lose their tags and are not kept; HEAD ends at the header;
//	                    what breaks off is cut, never ended
//
// What an operation asks of its caller is a line of the table in access.go; one without a line does not pass the tests.
//
// Functions return errors; errors.go alone turns them into answers, by one table.
//
// # Invariants
//
//   - Every body is JSON, errors included, except the pages under /docs, the text of /metrics and what is below /ipfs.
//   - Whether a DAG is hot, cold or half of each shows in X-Frostpin-Tier and X-Frostpin-Provider only.
//   - An error of a read is never kept by a cache, and shows nothing but fixed texts of ours and what boxo says of the
//     content itself.
//   - Every answer of the API carries CORS headers, else a browser hides the error from its own user.
//   - Public text and operator text never mix: a 5xx shows a request id, and the cause is logged once under that id.
//   - Tokens, invite codes, query values and bodies are never logged, wherever in a path somebody puts them.
//   - What another account has and what nobody has are the same answer, from the same queries.
//
// # Decisions
//
//   - A policy is chosen by the path of the endpoint because stock clients can send no meta. What is not about adding
//     pins is the same on both paths, so that a client sees its pins whichever it uses.
//   - Rates are counted in memory, for each server: they keep one account from taking all, and need not be exact.
//   - Wrong tokens are bounded by address, but a token that was right here before is looked up all the same: behind one
//     proxy, one misconfigured program must not lock out the others.
//   - Administrators read another account by naming it in a header of the ordinary requests, not by routes of their own:
//     what reads pins and content for an owner does so for them, and one place decides and records it.
//   - A receipt is passed on as bytes: the signature is over them.
//   - HEAD is not in the contract, so API routes answer it with 405. Health and documentation take it.
//   - Unknown paths and methods are answered without a token: they say nothing that openapi.yaml does not.
//   - /metrics and the details of /readyz are for the operator: they are shown to loopback peers whose request was not
//     forwarded by a proxy, or to everyone when Config.PublicMetrics is set. They carry no CORS headers, so that no
//     web page open in the operator's browser can read them.
//   - The documentation page is Swagger UI, taken from the assets of github.com/swaggest/swgui: it renders OpenAPI 3.0
//     completely, can send requests, and comes as compressed files in a Go module, so the binary serves it without
//     loading anything from elsewhere. That module's own handler is not used: it needs inline scripts, which our
//     Content-Security-Policy forbids, and two more modules to unpack what browsers unpack themselves.
//   - boxo's own time-out is not used: behind it the end of a stream cannot be told from its breaking off, and a handler
//     that it gave up goes on. Nor is its limit of requests, which answers in its own words.
//   - The tier is told in the header as of then. What is read later is told in trailers where there can be any, which
//     is where the length is not known.
//   - Pages at /ipfs are put into a sandbox: they are strangers', and on this host people put tokens into /docs. Web
//     sites get an origin of their own through Gateway.Hostnames.
//   - A listing of a directory has a weak tag: boxo lists sharded ones in the order in which shards arrive.
//   - A link signs the account too, and ends with its pin. It covers a path and what is below, so that one link is
//     enough for a directory.
//   - Progress is asked of clients, not speed: answers have a deadline that every piece taken renews, uploads one that
//     8 KiB renew. A deadline for a whole answer would cut slow clients, and none would let stalled ones stay.
//   - Only X-Forwarded-For names a client, not Forwarded: a proxy that sets one passes on what the client wrote into the
//     other.
//   - What net/http refuses before any handler runs (malformed HTTP, more than 16 KiB of headers) is answered by it in
//     plain text.
package server
