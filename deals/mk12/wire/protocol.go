package wire

import (
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"
)

// Protocol names.
const (
	ProposeProtocol    protocol.ID = "/fil/storage/mk/1.2.1" // adds RemoveUnsealedCopy and SkipIPNIAnnounce
	ProposeProtocolOld protocol.ID = "/fil/storage/mk/1.2.0"
	StatusProtocol     protocol.ID = "/fil/storage/status/1.2.0"
	AskProtocol        protocol.ID = "/fil/storage/ask/1.1.0"
	TransportsProtocol protocol.ID = "/fil/retrieval/transports/1.0.0"
)

// MaxMessage bounds one encoded message, in bytes, in either direction. A proposal is below 2 KiB.
const MaxMessage = 1 << 20

// Deadlines of one exchange. Providers run their filters before they answer a proposal, hence the long read.
const (
	clientWrite        = 10 * time.Second
	clientReadResponse = 60 * time.Second
	clientRead         = 10 * time.Second
	providerRead       = 10 * time.Second
	providerWrite      = 10 * time.Second
)
