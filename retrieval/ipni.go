package retrieval

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multiaddr"
)

const (
	maxRouting   = 256 << 10 // bytes of a router's answer that are read
	maxStrangers = 8
	httpGateway  = "transport-ipfs-gateway-http"
)

// strangerMark begins the names of strangers, which are other names than those of providers of ours: what a stranger does
// is not held against anybody else.
const strangerMark = "stranger "

// strangers asks the router, where one is configured, who else offers a block over HTTP. They are believed no more than
// anybody: a block is verified whoever sends it.
func (s *Service) strangers(ctx context.Context, c cid.Cid) []Source {
	if s.cfg.IPNI == "" || ctx.Err() != nil {
		return nil
	}
	list, err := s.askRouter(ctx, c)
	if err != nil {
		s.log.Debug("asking the router", "cid", c, "err", err)
		return nil
	}
	return s.ranks.order(list)
}

func (s *Service) askRouter(ctx context.Context, c cid.Cid) ([]Source, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Header)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(s.cfg.IPNI, "/")+"/routing/v1/providers/"+c.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if err := judge(res, http.StatusOK); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxRouting))
	if err != nil {
		return nil, err
	}
	return parseRouting(body)
}

// parseRouting reads who offers a block over HTTP out of an answer of the delegated routing API.
func parseRouting(body []byte) ([]Source, error) {
	var answer struct {
		Providers []struct {
			Addrs     []string `json:"Addrs"`
			Protocols []string `json:"Protocols"`
		} `json:"Providers"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("reading the router's answer: %w", err)
	}
	var list []Source
	for _, p := range answer.Providers {
		if !slices.Contains(p.Protocols, httpGateway) {
			continue
		}
		var urls []string
		for _, addr := range p.Addrs {
			if url, ok := BaseURL(addr); ok && len(urls) < 4 {
				urls = append(urls, url)
			}
		}
		if len(urls) == 0 {
			continue
		}
		list = append(list, Source{Provider: strangerMark + urls[0], URLs: urls})
		if len(list) == maxStrangers {
			break
		}
	}
	return list, nil
}

// BaseURL turns a multiaddress that ends in /http or /https, such as /dns4/example.net/tcp/443/https, into a URL.
func BaseURL(text string) (string, bool) {
	if len(text) > 1<<10 {
		return "", false
	}
	addr, err := multiaddr.NewMultiaddr(text)
	if err != nil {
		return "", false
	}
	var host, port, scheme string
	for _, c := range addr {
		switch c.Protocol().Code {
		case multiaddr.P_IP4:
			host = c.Value()
		case multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6:
			if host = c.Value(); !isHostName(host) {
				return "", false
			}
		case multiaddr.P_IP6:
			host = "[" + c.Value() + "]"
		case multiaddr.P_TCP:
			port = c.Value()
		case multiaddr.P_TLS:
			scheme = "https"
		case multiaddr.P_HTTP:
			if scheme == "" {
				scheme = "http"
			}
		case multiaddr.P_HTTPS:
			scheme = "https"
		case multiaddr.P_P2P:
		default:
			return "", false
		}
	}
	if host == "" || scheme == "" {
		return "", false
	}
	if port != "" {
		host += ":" + port
	}
	return scheme + "://" + host, true
}

var hostLabel = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)

// isHostName tells whether a text is the name of a host: a multiaddress takes any text for one.
func isHostName(text string) bool {
	text = strings.TrimSuffix(text, ".")
	if len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if !hostLabel.MatchString(label) {
			return false
		}
	}
	return true
}
