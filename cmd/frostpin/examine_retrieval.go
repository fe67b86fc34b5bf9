package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/retrieval/guard"
)

// Bounds of reading one copy back from each provider.
const (
	readPatience = 15 * time.Second
	readAtOnce   = 8
	readMost     = 64      // providers
	readBlock    = 4 << 20 // bytes of one block
)

// checkCopies reads one block back from each provider that has a copy: what is stored and cannot be read is no copy.
func (d *doctor) checkCopies(ctx context.Context, copies []deals.Copy) {
	if len(copies) == 0 || d.config.Devnet && d.server == nil {
		return // a devnet's providers live in the server
	}
	asked := copies[:min(len(copies), readMost)]
	client, err := d.config.copyClient()
	if err != nil {
		return // the settings are refused elsewhere
	}
	defer client.CloseIdleConnections()
	failures := make([]error, len(asked))
	places := make(chan struct{}, readAtOnce)
	var reading sync.WaitGroup
	for i, c := range asked {
		places <- struct{}{}
		reading.Go(func() {
			defer func() { <-places }()
			failures[i] = readBack(ctx, client, c)
		})
	}
	reading.Wait()
	good := 0
	for i, c := range asked {
		if failures[i] == nil {
			good++
			continue
		}
		d.warn("retrieval", "frostpin providers set "+c.Provider.String()+" --http ADDRESS, if it serves elsewhere", "%s, %s: %s",
			c.Provider, c.Root, plain(failures[i].Error()))
	}
	if good > 0 {
		d.ok("retrieval", "%d of %d storage providers give back the root of a copy", good, len(asked))
	}
}

// readBack gets the root block of a copy from the first address that has it, or, of a provider that indexes nothing, sees
// that the piece is there.
func readBack(ctx context.Context, client *http.Client, c deals.Copy) error {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	urls := c.URLs()
	if len(urls) == 0 {
		return errors.New("it has not told where it serves")
	}
	var failed error
	for _, base := range urls {
		err := readRoot(ctx, client, base, c.Root)
		if err == nil {
			return nil
		}
		_, status, headErr := answerOf(ctx, client, http.MethodHead, base+"/piece/"+c.Piece.CIDv1.String())
		if headErr == nil && status == http.StatusOK {
			return nil
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func readRoot(ctx context.Context, client *http.Client, base string, root cid.Cid) error {
	body, status, err := answerOf(ctx, client, http.MethodGet, base+"/ipfs/"+root.String()+"?format=raw")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s answers %d", base, status)
	}
	sum, err := root.Prefix().Sum(body)
	if err != nil {
		return fmt.Errorf("hashing what %s gives: %w", base, err)
	}
	if !sum.Equals(root) {
		return fmt.Errorf("%s gives other bytes than were asked for", base)
	}
	return nil
}

func answerOf(ctx context.Context, client *http.Client, method, target string) (body []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, target, http.NoBody)
	if err != nil {
		return nil, 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, readBlock))
	return body, resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// copyClient calls addresses that strangers have announced.
func (c *Config) copyClient() (*http.Client, error) {
	allowed, err := c.privateNetworks()
	if err != nil {
		return nil, err
	}
	return guard.NewClient(guard.Config{Allow: allowed, Dial: readPatience, Redirects: -1}), nil
}
