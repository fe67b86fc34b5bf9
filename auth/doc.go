// Package auth knows who may use this server: accounts, and the tokens by which programs prove that they belong to
// one. What a token sees is its account; several tokens (devices) may belong to one account.
//
// It owns the tables accounts, tokens, plans, their history, invites and audit, the form of a token's text and the type Secret. It must
// not know HTTP, pins or configuration: the policy that an account or a token names is a word here, whose meaning pins
// knows, and the limits of a plan are numbers, which server and pins enforce.
//
// Invariants:
//
//   - A token's text exists once, in the answer to its creation. Stored are its public id and the SHA-256 of the text:
//     the text holds 256 random bits, which no slow hash could protect better.
//   - A token is believed for half a second without asking the database again, and RevokeToken returns only after that
//     time: once a revocation is reported, no server accepts the token, and polling clients cost no look-up each.
//   - An unknown id, a wrong secret, a revoked token, one that has expired and one of a closed account are one error and
//     one amount of work, so that nobody learns which ids exist. So are all invite codes that make no account.
//   - Nobody makes, renews or sees a token with more scopes than his own, or one of another account: such a token does not
//     exist for him.
//   - Every change is written to the audit in its own transaction, and the database refuses to change what is there.
//   - When a token was used last is kept in memory and written once a minute: no request waits for it.
//   - A Secret prints as "[redacted]" in every format, log and JSON document. Reveal is the only way out.
//
// Decision: a token reads fp_<id>_<secret>, both parts lower-case base32. The prefix lets secret scanners find leaked
// ones, the id tells an operator which to revoke, a double click selects the whole, and it never begins with a dash,
// which Kubo's command line would take for an option.
package auth
