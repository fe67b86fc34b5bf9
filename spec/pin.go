package spec

import (
	"encoding/json"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multiaddr"
)

// A Request is a validated Pin body.
type Request struct {
	CID     string  // as it was posted
	Root    cid.Cid // the same DAG, canonical
	Name    *string
	Origins []string // the first 20 usable ones, as they were posted; nil when absent
	Dropped int      // origins that were not kept, repetitions aside
	Meta    map[string]string
}

// DecodePin reads the body of a POST. Every error is an *InvalidError.
//
// The standard decoder would be too kind: it matches names without regard to case, takes the last of repeated fields,
// and replaces broken UTF-8 by U+FFFD, so that a pin would come back with another name than it was sent with.
func DecodePin(body []byte) (Request, error) {
	fields, err := decodeObject("body", body, "cid", "name", "origins", "meta")
	if err != nil {
		return Request{}, err
	}

	var r Request
	raw, ok := fields["cid"]
	if !ok {
		return Request{}, invalid("cid", "is required")
	}
	if r.CID, err = decodeString("cid", raw); err != nil {
		return Request{}, err
	}
	if r.Root, err = parseCID("cid", r.CID); err != nil {
		return Request{}, err
	}
	if err := checkPinnable(r.Root); err != nil {
		return Request{}, err
	}

	if r.Name, r.Meta, err = decodeLabel(fields); err != nil {
		return Request{}, err
	}

	if raw, ok := fields["origins"]; ok {
		if r.Origins, r.Dropped, err = decodeOrigins(raw); err != nil {
			return Request{}, err
		}
	}
	return r, nil
}

// DecodeLabel reads the name and meta of a pin whose CID is not known yet, as DecodePin does.
func DecodeLabel(body []byte) (name *string, meta map[string]string, err error) {
	fields, err := decodeObject("body", body, "name", "meta")
	if err != nil {
		return nil, nil, err
	}
	return decodeLabel(fields)
}

func decodeLabel(fields map[string]json.RawMessage) (name *string, meta map[string]string, err error) {
	if raw, ok := fields["name"]; ok {
		text, err := decodeString("name", raw)
		if err != nil {
			return nil, nil, err
		}
		if err := checkName(text); err != nil {
			return nil, nil, err
		}
		name = &text
	}
	if raw, ok := fields["meta"]; ok {
		if meta, err = decodeMeta(raw); err != nil {
			return nil, nil, err
		}
	}
	return name, meta, nil
}

const (
	maxOrigins     = 20
	maxOrigin      = 1 << 10 // bytes in one address
	maxOriginsRead = 200     // entries looked at, so that a body full of rubbish costs little
)

// decodeOrigins keeps what can be dialled. Clients send every address their host has, in protocols that may be newer
// than this program, and the rest of their request must not suffer for it.
func decodeOrigins(raw json.RawMessage) (kept []string, dropped int, err error) {
	var entries []json.RawMessage
	if raw[0] != '[' || json.Unmarshal(raw, &entries) != nil {
		return nil, 0, invalid("origins", "must be an array of strings")
	}
	kept = []string{}
	seen := make(map[string]bool, min(len(entries), maxOrigins))
	for i, entry := range entries {
		if entry[0] != '"' {
			return nil, 0, invalid("origins", "must be an array of strings")
		}
		if len(kept) == maxOrigins || i >= maxOriginsRead {
			dropped++
			continue
		}
		address, err := decodeString("origins", entry)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case seen[address]:
		case !dialable(address):
			dropped++
		default:
			seen[address] = true
			kept = append(kept, address)
		}
	}
	return kept, dropped, nil
}

// dialable reports whether an address names a peer: without the id at its end no connection can be opened.
func dialable(address string) bool {
	if len(address) > maxOrigin || strings.IndexByte(address, 0) >= 0 {
		return false
	}
	a, err := multiaddr.NewMultiaddr(address)
	if err != nil || len(a) == 0 {
		return false
	}
	_, last := multiaddr.SplitLast(a)
	return last != nil && last.Protocol().Code == multiaddr.P_P2P
}
