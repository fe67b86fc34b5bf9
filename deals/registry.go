package deals

import (
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/filecoin-project/go-state-types/abi"
	fbig "github.com/filecoin-project/go-state-types/big"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// ErrNoProvider is wrapped by the errors about a provider that is not in the registry.
var ErrNoProvider = errors.New("the provider is not in the registry")

// A Decision is what the operator has decided about a provider. Zero fields mean what they mean in Provider.
type Decision struct {
	ID           ProviderID
	Trust        Trust // empty: neutral
	Region       string
	RegionSource string
	PriceCap     abi.TokenAmount // attoFIL per GiB and epoch; nil: the service's
	MinPiece     abi.PaddedPieceSize
	MaxPiece     abi.PaddedPieceSize
	Concurrency  int
	HTTP         string
	PeerID       string
	Addrs        []string
}

// Decision is the operator's part of a provider.
func (p Provider) Decision() Decision {
	return Decision{
		ID: p.ID, Trust: p.Trust, Region: p.Region, RegionSource: p.RegionSource, PriceCap: p.PriceCap, MinPiece: p.MinPiece,
		MaxPiece: p.MaxPiece, Concurrency: p.Concurrency, HTTP: p.HTTP, PeerID: p.PeerID, Addrs: p.Addrs,
	}
}

func (d Decision) provider() Provider {
	if d.Trust == "" {
		d.Trust = Neutral
	}
	d.Region = CanonicalRegion(d.Region)
	return Provider{
		ID: d.ID, Trust: d.Trust, Region: d.Region, RegionSource: d.RegionSource, PriceCap: d.PriceCap, MinPiece: d.MinPiece,
		MaxPiece: d.MaxPiece, Concurrency: d.Concurrency, HTTP: d.HTTP, PeerID: d.PeerID, Addrs: d.Addrs,
	}
}

// Check names everything that is wrong with a decision.
func (d Decision) Check() error {
	var wrong []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf("%s: "+format, append([]any{d.ID}, args...)...))
		}
	}
	add(d.ID == 0, "a provider has a number, such as f01000")
	switch d.Trust {
	case "", Neutral, Allowed, Denied:
	default:
		add(true, "trust %q is none of %s, %s, %s", d.Trust, Neutral, Allowed, Denied)
	}
	add(len(d.Region) > 64 || len(d.RegionSource) > 256, "the region or its source is too long")
	add(!d.PriceCap.Nil() && d.PriceCap.LessThan(fbig.Zero()), "the price cap is negative")
	for name, size := range map[string]abi.PaddedPieceSize{"least": d.MinPiece, "largest": d.MaxPiece} {
		add(size != 0 && size.Validate() != nil, "the %s piece of %d bytes is not a power of two from 128 on", name, size)
	}
	add(d.MaxPiece != 0 && d.MaxPiece < d.MinPiece, "the largest piece is smaller than the least")
	add(d.Concurrency < 0, "it cannot have %d deals in flight", d.Concurrency)
	if d.HTTP != "" {
		u, err := url.Parse(d.HTTP)
		add(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https", "%q is not an http or https address", d.HTTP)
	}
	if d.PeerID != "" {
		_, err := peer.Decode(d.PeerID)
		add(err != nil, "%q is not a peer ID", d.PeerID)
	}
	for _, addr := range d.Addrs {
		_, err := ma.NewMultiaddr(addr)
		add(err != nil, "%q is not a multiaddress", addr)
	}
	return errors.Join(wrong...)
}

func (d Decision) equal(o Decision) bool {
	same := d.PriceCap.Nil() == o.PriceCap.Nil() && amount(d.PriceCap).Equals(amount(o.PriceCap)) && slices.Equal(d.Addrs, o.Addrs)
	return same && d.ID == o.ID && d.Trust == o.Trust && d.Region == o.Region && d.RegionSource == o.RegionSource &&
		d.MinPiece == o.MinPiece && d.MaxPiece == o.MaxPiece && d.Concurrency == o.Concurrency && d.HTTP == o.HTTP && d.PeerID == o.PeerID
}
