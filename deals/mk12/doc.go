// Package mk12 speaks deal protocol mk 1.2 with storage providers over libp2p: it is deals.Market on top of the wire
// package.
//
// It owns how a provider is reached, how its words are understood, and which of its refusals may pass. It must not
// know what was agreed before or what becomes of an answer: it keeps nothing, and every word of a provider may be a
// lie.
//
// # Invariants
//
//   - Propose sends exactly the bytes that Compose made, or nothing.
//   - deals.ErrNotSent is returned if and only if no byte of a proposal can have reached the provider. A duplicate
//     that a provider reports counts as accepted: it has the deal.
//   - Nothing in an answer makes a deal unknown, given up or transferred but the texts and fields named in words.go.
//     Unknown words mean "in progress".
//   - A provider announces its own addresses on chain, so addresses that are not public are not dialled, also behind
//     names, unless the configuration allows them.
package mk12
