// Package spec is the IPFS Pinning Service API, version 1.0.0, as types and rules: the wire types and the embedded
// contract generated from openapi.yaml, and the validation that the contract's syntax cannot express.
//
// It owns what a request may say ([Query], [Request]), what an answer may look like ([NewPinResults], [NewPinStatus],
// [NewFailure]) and the reasons an error can carry. It must not know HTTP, the database, accounts or IPFS nodes.
//
// Invariants:
//   - Everything a stranger sends is either refused with an [InvalidError] that names the field, or understood in
//     exactly one way. Nothing is silently widened, shortened or re-encoded.
//   - Answers never contain null or a property that the contract does not name.
//   - A CID is echoed as it was posted and compared in canonical form ([Canonical]).
//
// The text of the specification: https://ipfs.github.io/pinning-services-api-spec/.
//
// # Divergences
//
// Where the specification is silent, contradicts itself, or is contradicted by clients that exist, this is what
// Frostpin does.
//
// Lists:
//   - status absent: pinned only, also when other filters are given. One text of the specification ties that default
//     to "no filter at all", another to a missing status; Helia relies on the latter. Exception: when match is given,
//     all four states are listed, which the official compliance suite relies on.
//   - status and cid may be comma-separated or repeated; repetitions count once; at most 10 distinct CIDs.
//   - Present but empty cid, status, match, before, after, limit or meta is refused; an empty name is no filter.
//     Other repeated parameters count with their first value; unknown ones are ignored.
//   - limit outside 1 to 1000 is refused, not clamped.
//   - A page ends before its limit once the texts of its rows have about 4 MiB; it has one row at least. count says that
//     others follow, as it does after a page that reached the limit, and clients read on in the same way.
//   - before and after take 0 to 9 digits of fraction. Rows have whole milliseconds, so before is rounded up and after
//     down. A plus sign that arrived as a space is repaired.
//   - match without name filters nothing. Percent signs, underscores and backslashes in name are ordinary characters.
//   - meta is a JSON object of strings, or pairs meta[key]=value as the JavaScript client sends them, but not both; a
//     key that contains brackets needs the JSON form. All given keys must match exactly, other keys are allowed, and
//     an empty value matches only a key that is there. Anything else is refused, because an ignored filter would list
//     pins that the caller may then delete.
//   - cid filters may use codecs and hash functions that cannot be pinned; they match nothing.
//   - count is capped at 2147483647, the largest the contract can carry.
//
// Pins:
//   - Bodies are JSON whatever their Content-Type says. Unknown fields are ignored, an explicit null is an absent
//     field, a known field or meta key given twice is refused, nesting is bounded to 32 levels. Field names are
//     compared exactly.
//   - Broken UTF-8, half surrogate pairs and NUL characters are refused rather than replaced.
//   - cid is a bare CID of codec raw, dag-pb, dag-cbor, dag-json, cbor or json, with a hash function that IPFS deems
//     secure; identity hashes hold at most 128 bytes. IPNS keys and paths are refused.
//   - name is counted in code points, not bytes.
//   - meta holds at most 1000 keys, as the contract tries to say (it bounds the wrong schema), and 16 KiB in all.
//   - origins: more than 20 are accepted and the first 20 usable ones kept. An address that does not parse or does
//     not end in /p2p/ and a peer id cannot be dialled and is dropped; private addresses are kept.
//   - Empty meta and origins are accepted and left out of answers, like absent ones.
//   - meta keys that begin with "frostpin." tell the service which cold copies the pin wants: frostpin.replicas, .regions,
//     .providers, .duration_days and .cold. They are echoed and can be filtered by like any other. A key of that kind
//     that is not known, a value that makes no sense, and copies that cannot be had here are refused, naming the key:
//     a copy that nobody makes must not look ordered.
//
// Answers:
//   - created is UTC with exactly three digits of fraction and unique within an account.
//   - Errors that the contract lumps together as 4XX and 5XX carry reasons of their own: ACCOUNT_SUSPENDED, DATABASE_BUSY,
//     INSUFFICIENT_SCOPE, INSUFFICIENT_STORAGE, METHOD_NOT_ALLOWED, PAYLOAD_TOO_LARGE, QUOTA_EXCEEDED, RATE_LIMITED,
//     SERVICE_UNAVAILABLE.
//   - pinned means that the DAG is held hot; cold copies are reported in info and change no status, unless the operator
//     has said that it takes some.
//   - The whole API is served once more below policy/NAME, where the named policy is the default of what is added. A name
//     that nobody has given is 404 for every operation; reads show all requests of the account.
//   - A request of another account does not exist: 404, never 403.
package spec
