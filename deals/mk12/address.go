package mk12

import (
	"errors"
	"fmt"

	"github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
	manet "github.com/multiformats/go-multiaddr/net"
)

// maxAddrs bounds how many of a provider's addresses are tried.
const maxAddrs = 16

// dialable are those of a provider's addresses that may be dialled; an error if there are none. What names resolve to
// is for the host's gater to judge.
func (m *Market) dialable(addrs []string) ([]multiaddr.Multiaddr, error) {
	var good []multiaddr.Multiaddr
	var errs []error
	for _, text := range addrs[:min(len(addrs), maxAddrs)] {
		a, err := multiaddr.NewMultiaddr(text)
		if err == nil && !m.cfg.AllowPrivate && !madns.Matches(a) && !manet.IsPublicAddr(a) {
			err = errors.New("it is not public")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("address %q: %w", text, err))
			continue
		}
		good = append(good, a)
	}
	if len(good) > 0 {
		return good, nil
	}
	if len(errs) == 0 {
		return nil, errors.New("it announces no address")
	}
	return nil, errors.Join(errs...)
}
