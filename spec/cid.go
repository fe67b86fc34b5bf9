package spec

import (
	"errors"
	"strconv"
	"strings"

	"github.com/ipfs/boxo/verifcid"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
)

// maxCID bounds the text of a CID before it is decoded: base58 and base36 take quadratic time. The longest CID that is
// allowed, an identity hash of 128 bytes in base 2, takes less.
const maxCID = 2048

// Canonical returns the CID under which a DAG is known here: version 1, so that every spelling of a CID is one.
func Canonical(c cid.Cid) cid.Cid {
	if c.Version() == 0 {
		return cid.NewCidV1(c.Type(), c.Hash())
	}
	return c
}

// parseCID reads a bare CID in any version and multibase and returns it canonical. It does not ask whether such a DAG
// may be pinned: looking for one that may not is no error, there is none.
func parseCID(field, s string) (cid.Cid, error) {
	switch {
	case s == "":
		return cid.Undef, invalid(field, "is empty")
	case len(s) > maxCID:
		return cid.Undef, invalid(field, "is too long for a CID")
	case strings.Contains(s, "/"):
		return cid.Undef, invalid(field, "must be a bare CID without a path, not "+quote(s))
	}
	c, err := cid.Decode(s)
	if err != nil || !c.Defined() {
		return cid.Undef, invalid(field, "is not a valid CID: "+quote(s))
	}
	return Canonical(c), nil
}

// checkPinnable refuses a root that could never be held, so that its owner learns it at once and not from a pin that
// fails later.
func checkPinnable(c cid.Cid) error {
	p := c.Prefix()
	switch multicodec.Code(p.Codec) {
	case multicodec.Raw, multicodec.DagPb, multicodec.DagCbor, multicodec.DagJson, multicodec.Cbor, multicodec.Json:
	case multicodec.Libp2pKey:
		return invalid("cid", "names a libp2p key (an IPNS name), which is not data; resolve it and pin the result")
	default:
		return invalid("cid", "uses the codec "+multicodec.Code(p.Codec).String()+
			", which is not supported; use raw, dag-pb, dag-cbor, dag-json, cbor or json")
	}

	hash := multihash.Codes[p.MhType]
	if hash == "" {
		hash = "0x" + strconv.FormatUint(p.MhType, 16)
	}
	// boxo allows SHA-1 for git objects; their codec is not in the list above.
	if p.MhType == multihash.SHA1 {
		return invalid("cid", "uses the hash function sha1, which is not secure")
	}
	switch err := verifcid.ValidateCid(verifcid.DefaultAllowlist, c); {
	case err == nil:
		return nil
	case errors.Is(err, verifcid.ErrDigestTooSmall):
		return invalid("cid", "has a digest that is too short to be secure")
	case errors.Is(err, verifcid.ErrDigestTooLarge):
		return invalid("cid", "has a digest that is too long")
	default:
		return invalid("cid", "uses the hash function "+hash+", which is not allowed")
	}
}
