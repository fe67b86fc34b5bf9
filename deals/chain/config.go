package chain

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/filecoin-project/go-address"
)

// A Config says which node is asked and how. Zero durations and numbers stand for the defaults.
type Config struct {
	URL     string          // ws or wss, also http or https; without a path: /rpc/v1
	Token   string          // of the node's API, with the permissions read and sign
	Network string          // name of the network that the node must be on, such as mainnet
	Wallet  address.Address // key that proposes and pays, f1 or f3; it stays in the node

	AllowedLag time.Duration // a head older than this is not believed (10 min); negative: any age is
	Timeout    time.Duration // of a call (30 s); calls that make the node search have four times as long
	Quiet      time.Duration // without a new head the node is asked for its head after so long (2 min)
	Calls      int           // at once (16)
	RetryFirst time.Duration // wait before the second try to connect (250 ms); it doubles with each
	RetryMax   time.Duration // longest wait between two tries (30 s)

	Now func() time.Time // the wall clock; nil: time.Now
}

const (
	defaultLag        = 10 * time.Minute
	defaultTimeout    = 30 * time.Second
	defaultQuiet      = 2 * time.Minute
	defaultCalls      = 16
	defaultRetryFirst = 250 * time.Millisecond
	defaultRetryMax   = 30 * time.Second
)

// complete is c with the defaults, or what is wrong with it.
func (c Config) complete() (Config, error) {
	var errs []error
	u, err := endpoint(c.URL)
	if err != nil {
		errs = append(errs, err)
	}
	if c.Network == "" {
		errs = append(errs, errors.New("the network's name is missing"))
	}
	switch c.Wallet.Protocol() {
	case address.SECP256K1, address.BLS, address.Delegated:
	default:
		errs = append(errs, fmt.Errorf("wallet %q is not a key address (f1, f3 or f4)", c.Wallet))
	}
	c.URL = u
	c.AllowedLag = cmp.Or(c.AllowedLag, defaultLag)
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.Quiet = cmp.Or(c.Quiet, defaultQuiet)
	c.Calls = cmp.Or(c.Calls, defaultCalls)
	c.RetryFirst = cmp.Or(c.RetryFirst, defaultRetryFirst)
	c.RetryMax = cmp.Or(c.RetryMax, defaultRetryMax)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, errors.Join(errs...)
}

// endpoint is the websocket's address.
func endpoint(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("reading the node's URL: %w", err)
	}
	switch strings.ToLower(u.Scheme) {
	case "ws", "http":
		u.Scheme = "ws"
	case "wss", "https":
		u.Scheme = "wss"
	default:
		return "", fmt.Errorf("the node's URL %q is not one with ws, wss, http or https", text)
	}
	if u.Host == "" {
		return "", fmt.Errorf("the node's URL %q names no host", text)
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/rpc/v1"
	}
	return u.String(), nil
}
