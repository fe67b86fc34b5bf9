// Command gen writes the CBOR encodings of the messages that wire declares itself.
package main

import (
	"fmt"
	"os"

	cbg "github.com/whyrusleeping/cbor-gen"

	"github.com/frostpin/frostpin/deals/mk12/wire"
)

func main() {
	// Lists and byte strings are small (addresses, signatures); the bounds keep a stranger's message from
	// reserving memory that it never fills.
	gen := cbg.Gen{MaxArrayLength: 256, MaxByteLength: 1024}
	err := gen.WriteMapEncodersToFile("message.gen.go", "wire",
		wire.AskRequest{}, wire.AskResponse{}, wire.SignedStorageAsk{}, wire.StorageAsk{},
		wire.QueryResponse{}, wire.Protocol{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
