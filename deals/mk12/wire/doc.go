// Package wire is what a client and a storage provider say to each other in deal protocol mk 1.2: the messages, one
// each way on a libp2p stream, and both ends of that exchange.
//
// It owns protocol names, CBOR encodings, deadlines and size bounds. It must not know why a deal is made, what makes a
// proposal acceptable, or what to do when an answer is lost: it only reports, exactly, what is known afterwards.
//
// # Exchanges
//
//	/fil/storage/mk/1.2.1, 1.2.0      DealParams        -> DealResponse
//	/fil/storage/status/1.2.0         DealStatusRequest -> DealStatusResponse
//	/fil/storage/ask/1.1.0            AskRequest        -> AskResponse
//	/fil/retrieval/transports/1.0.0   (nothing)         -> QueryResponse
//
// Each message is one CBOR map whose keys are the Go field names; nothing frames it. The answer ends the exchange.
//
// # Invariants
//
//   - A failed exchange is a [NotSentError] if and only if no byte of the request can have reached the provider. Every
//     other error of [Propose] means that the provider may have accepted the deal.
//   - No message of more than [MaxMessage] bytes is written or read, no field makes the decoder allocate more, and no
//     exchange outlives its deadlines or its context.
//   - What a stranger sends never panics outwards.
//
// # Decisions
//
//   - Deal and status types are those of filecoin-shipyard/boostly, under names of our own, because they are what the
//     field's clients use and equal to Boost's and Curio's. They lack the signed ask and the bare transports answer,
//     which are generated here by cbor-gen with map encoding (go generate) as the providers' own are.
//   - Encoders write maps in one order (shorter keys first, then by bytes) and the ask is signed over exactly these
//     bytes, so the golden vectors in testdata are of the encodings, not only of the values.
package wire
