package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// A pinned is a pin request as some service describes it. Services that are sloppy in what they send can still be read.
type pinned struct {
	ID        string            `json:"requestid"`
	Status    spec.Status       `json:"status"`
	Created   string            `json:"created"`
	Pin       wanted            `json:"pin"`
	Delegates []string          `json:"delegates"`
	Info      map[string]string `json:"info,omitempty"`
}

// A wanted is what a client posts.
type wanted struct {
	CID     string            `json:"cid"`
	Name    string            `json:"name,omitempty"`
	Origins []string          `json:"origins,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
}

// looseMap keeps what is text, writes numbers and truth values as text and leaves the rest out.
type looseMap map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (m *looseMap) UnmarshalJSON(data []byte) error { //nolint:unparam // the interface has an error
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return nil //nolint:nilerr // not an object: nothing that could be kept
	}
	for key, raw := range fields {
		var text string
		switch {
		case json.Unmarshal(raw, &text) == nil && string(raw) != "null":
		case len(raw) > 0 && strings.IndexByte(`{["n`, raw[0]) < 0:
			text = string(raw)
		default:
			continue
		}
		if *m == nil {
			*m = looseMap{}
		}
		(*m)[key] = text
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *pinned) UnmarshalJSON(data []byte) error {
	var loose struct {
		ID      string      `json:"requestid"`
		Status  spec.Status `json:"status"`
		Created string      `json:"created"`
		Pin     struct {
			CID     string   `json:"cid"`
			Name    *string  `json:"name"`
			Origins []string `json:"origins"`
			Meta    looseMap `json:"meta"`
		} `json:"pin"`
		Delegates []string `json:"delegates"`
		Info      looseMap `json:"info"`
	}
	if err := json.Unmarshal(data, &loose); err != nil {
		return err
	}
	*p = pinned{
		ID: loose.ID, Status: loose.Status, Created: loose.Created, Delegates: loose.Delegates, Info: loose.Info,
		Pin: wanted{CID: loose.Pin.CID, Origins: loose.Pin.Origins, Meta: loose.Pin.Meta},
	}
	if loose.Pin.Name != nil {
		p.Pin.Name = *loose.Pin.Name
	}
	return nil
}

func (p *pinned) created() (time.Time, bool) {
	t, err := time.Parse(time.RFC3339Nano, p.Created)
	return t, err == nil
}

// same is what makes two pins the same to those who copy pins: the DAG, however it is spelled, and the name.
type same struct{ dag, name string }

func (w wanted) same() same {
	c, err := cid.Decode(w.CID)
	if err != nil {
		return same{w.CID, w.Name}
	}
	return same{spec.Canonical(c).KeyString(), w.Name}
}

const (
	fullPage  = 1000
	pageLimit = 32 << 20 // bytes of one page
)

// page reads the pins that match.
func (a *api) page(ctx context.Context, query url.Values) (rows []pinned, count int64, err error) {
	body, err := a.fetch(ctx, call{method: http.MethodGet, url: a.endpoint + "/pins?" + query.Encode(), limit: pageLimit}, nil)
	if err != nil {
		return nil, 0, err
	}
	var answer struct {
		Count   int64    `json:"count"`
		Results []pinned `json:"results"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, 0, fmt.Errorf("reading a page of pins: %w", err)
	}
	return answer.Results, answer.Count, nil
}

func joined(statuses []spec.Status) string {
	words := make([]string, len(statuses))
	for i, s := range statuses {
		words[i] = string(s)
	}
	return strings.Join(words, ",")
}
