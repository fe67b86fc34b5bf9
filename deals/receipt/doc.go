// Package receipt checks receipts (deals.Receipt) without the service that issued them: from the file alone, from the
// data, and from any Filecoin node.
//
// It knows receipts, CARs and the calls of a Lotus node that need no permission. It must not know the service, its
// database or its wallet: whoever checks a receipt has none of them.
//
// # What is proved by what
//
//	the file      who issued it and that no byte of it changed; that the client signed each proposal; that the proposals
//	              are those that the receipt describes, for pieces that are the same CAR
//	the data      that this CAR is the DAG under the root: CommP is computed anew
//	the chain     that each deal exists as it was signed, and is active
//
// What was not looked at is listed as open, never as proved. A receipt says what the service saw when it was issued; only
// the chain says what is so now.
//
// # Decisions
//
//   - The DAG is always walked from the root that the receipt names, each block verified against its CID, and our CAR made
//     anew: a file with the right commitment might be the CAR of other data. So any CAR with all the blocks will do.
//   - What a receipt says about itself never keeps anything from being looked at. The height at which the service saw a deal
//     excuses a node that is behind for not finding it, and is checked against when the receipt was issued.
//   - Signatures are verified with Lotus' own code. BLS needs a library that cannot be linked here, so the node verifies
//     those; without a node such a receipt is not proved.
package receipt
