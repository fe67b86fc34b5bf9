package wire

import (
	"encoding/json"
	"fmt"
)

// TransferHTTP is the Type of a transfer over HTTP or HTTPS.
const TransferHTTP = "http"

// NewHTTPTransfer describes a pull over HTTP of exactly size bytes. The id is free text, shown to the provider's
// operator.
func NewHTTPTransfer(id string, req HTTPRequest, size uint64) (Transfer, error) {
	params, err := json.Marshal(req)
	if err != nil {
		return Transfer{}, fmt.Errorf("encoding the transfer: %w", err)
	}
	return Transfer{Type: TransferHTTP, ClientID: id, Params: params, Size: size}, nil
}

// ParseHTTPTransfer returns where an HTTP transfer gets its bytes. The URL is not judged.
func ParseHTTPTransfer(t Transfer) (HTTPRequest, error) {
	var req HTTPRequest
	if t.Type != TransferHTTP {
		return req, fmt.Errorf("transfer is of type %q, not %q", t.Type, TransferHTTP)
	}
	if err := json.Unmarshal(t.Params, &req); err != nil {
		return req, fmt.Errorf("decoding the transfer: %w", err)
	}
	return req, nil
}
