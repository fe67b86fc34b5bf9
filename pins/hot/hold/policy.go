package hold

import (
	"fmt"
	"strconv"

	"github.com/ipfs/boxo/verifcid"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/pins"
)

// MaxIdentity is the most bytes that an identity CID may carry.
const MaxIdentity = verifcid.DefaultMaxIdentityDigestSize

// Admit says whether a block with this CID may be held at all. The error is a *pins.Refused.
func Admit(c cid.Cid) error {
	prefix := c.Prefix()
	switch multicodec.Code(prefix.Codec) {
	case multicodec.Raw, multicodec.DagPb, multicodec.DagCbor, multicodec.DagJson, multicodec.Cbor, multicodec.Json:
	default:
		return refuse("block %s has the codec %s, but only raw, dag-pb, dag-cbor, dag-json, cbor and json are held here",
			c, multicodec.Code(prefix.Codec))
	}
	digest, err := multihash.Decode(c.Hash())
	if err != nil {
		return refuse("block %s has a malformed hash", c)
	}
	if prefix.MhType == multihash.IDENTITY {
		if digest.Length > MaxIdentity {
			return refuse("the identity CID %s carries more than %d bytes", c, MaxIdentity)
		}
		return nil
	}
	allowed := verifcid.DefaultAllowlist
	if !allowed.IsAllowed(prefix.MhType) || prefix.MhType == multihash.SHA1 {
		return refuse("block %s has the hash function %s, which is not held here", c, multicodec.Code(prefix.MhType))
	}
	if digest.Length < allowed.MinDigestSize(prefix.MhType) || digest.Length > allowed.MaxDigestSize(prefix.MhType) {
		return refuse("block %s has a hash of %d bytes, which is not held here", c, digest.Length)
	}
	return nil
}

// Identity returns the data that c carries itself, if it is an identity CID.
func Identity(c cid.Cid) (data []byte, ok bool) {
	if c.Prefix().MhType != multihash.IDENTITY {
		return nil, false
	}
	digest, err := multihash.Decode(c.Hash())
	if err != nil {
		return nil, false
	}
	return digest.Digest, true
}

// carriedLeaf tells whether c carries its block itself and can have no links.
func carriedLeaf(c cid.Cid) bool {
	prefix := c.Prefix()
	return prefix.MhType == multihash.IDENTITY && prefix.Codec == cid.Raw
}

func refuse(format string, args ...any) error {
	return &pins.Refused{Reason: fmt.Sprintf(format, args...)}
}

// size spells a limit the way operators set it: whole binary units where they fit.
func size(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >= 1024 && n%1024 == 0 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return strconv.FormatInt(n, 10) + " " + units[i]
}
