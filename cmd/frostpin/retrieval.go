package main

import (
	"fmt"
	"net/netip"

	"github.com/frostpin/frostpin/server"
)

// privateNetworks are those in which storage providers may be although they are not public.
func (c *Config) privateNetworks() ([]netip.Prefix, error) {
	out, err := networks(c.RetrievalPrivate)
	if c.FilecoinNetwork == devnetName {
		out = append(out, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	}
	return out, err
}

// networks reads networks as settings name them.
func networks(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a network such as 10.1.0.0/16", text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// validateRetrieval names what is wrong with the settings of reading cold copies.
func (c *Config) validateRetrieval(wrong problems) {
	_, err := c.privateNetworks()
	wrong.add("retrieval-private", err)
	wrong.check("probe-pace", c.ProbePace < 0, "it must not be negative")
	wrong.check("verify-rate", c.VerifyRate < 0, "it must not be negative")
	wrong.check("hot-quota", c.HotQuota < 0, "it must not be negative")
	wrong.check("hot-stay", c.HotStay < 0, "it must not be negative")
	wrong.oneOf("gateway-access", c.GatewayAccess, string(server.AccessOpen), string(server.AccessToken), string(server.AccessOff))
	wrong.oneOf("gateway-fetch", c.GatewayFetch, string(server.FetchHeld), string(server.FetchOnly), string(server.FetchAny))
	if c.GatewayURL != "" {
		wrong.add("gateway-url", checkURL(c.GatewayURL))
	}
	if c.IPNIURL != "" {
		wrong.add("ipni-url", checkURL(c.IPNIURL))
	}
}
