package sp

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/google/uuid"
)

// State is what a provider shows of itself to whoever controls the devnet.
type State struct {
	Miner   string         `json:"miner"`
	Worker  string         `json:"worker"`
	PeerID  string         `json:"peer_id"`
	Addrs   []string       `json:"addrs"`
	HTTP    string         `json:"http"`
	Region  string         `json:"region,omitempty"`
	Style   Style          `json:"style"`
	Settled bool           `json:"settled"`
	Height  abi.ChainEpoch `json:"height"`
	Ask     Ask            `json:"ask"`
	Faults  Faults         `json:"faults"`
	Deals   []DealState    `json:"deals"`
}

// DealState is one deal of a State.
type DealState struct {
	UUID       uuid.UUID        `json:"uuid"`
	Client     string           `json:"client"`
	PieceCID   string           `json:"piece_cid"`
	PieceSize  uint64           `json:"piece_size"`
	Size       uint64           `json:"size"`
	Received   int64            `json:"received"`
	Stage      Stage            `json:"stage"`
	Error      string           `json:"error,omitempty"`
	PublishCID string           `json:"publish_cid,omitempty"`
	DealID     *abi.DealID      `json:"deal_id,omitempty"` // 0 is one
	Sector     abi.SectorNumber `json:"sector,omitempty"`
	Activated  abi.ChainEpoch   `json:"activated,omitempty"`
	Start      abi.ChainEpoch   `json:"start"`
	End        abi.ChainEpoch   `json:"end"`
}

// State describes the provider.
func (p *Provider) State() State {
	info := p.AddrInfo()
	s := State{
		Miner: p.cfg.Miner.String(), Worker: p.cfg.Worker.String(), PeerID: info.ID.String(), Addrs: []string{},
		HTTP: p.HTTPURL(), Region: p.cfg.Region, Style: p.cfg.Style, Settled: p.Settled(), Height: p.height(),
		Faults: p.Faults(), Deals: []DealState{},
	}
	for _, a := range info.Addrs {
		s.Addrs = append(s.Addrs, a.String())
	}
	p.mu.Lock()
	s.Ask = p.cfg.Ask
	p.mu.Unlock()
	for _, d := range p.Deals() {
		proposal := d.proposal()
		state := DealState{
			UUID: d.UUID, Client: proposal.Client.String(), PieceCID: proposal.PieceCID.String(),
			PieceSize: uint64(proposal.PieceSize), Size: d.params.Transfer.Size, Received: p.received(d),
			Stage: d.Stage, Error: d.Error, Sector: d.Sector, Activated: d.Activated,
			Start: proposal.StartEpoch, End: proposal.EndEpoch,
		}
		if d.published() {
			state.PublishCID = d.Publish.CID.String()
		}
		switch d.Stage {
		case PublishConfirmed, AddedPiece, Sealed, Complete, Ended:
			state.DealID = &d.DealID
		case Accepted, Transferred, Published, Failed:
		}
		s.Deals = append(s.Deals, state)
	}
	return s
}

// maxControl bounds a request's body, in bytes.
const maxControl = 1 << 20

// ControlHandler lets another process look at the provider and make it misbehave. It is for loopback: it asks nobody
// who they are.
//
//	GET  /         State
//	GET  /faults   Faults
//	PUT  /faults   Faults; 400 with the reason if they are not valid
//	GET  /kinds    every kind of fault
//	PUT  /ask      Ask
func (p *Provider) ControlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { p.reply(w, p.State()) })
	mux.HandleFunc("GET /kinds", func(w http.ResponseWriter, _ *http.Request) { p.reply(w, Kinds()) })
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { p.reply(w, p.Faults()) })
	mux.HandleFunc("PUT /faults", func(w http.ResponseWriter, r *http.Request) {
		var faults Faults
		if !read(w, r, &faults) {
			return
		}
		if err := p.SetFaults(faults); err != nil {
			answer(w, http.StatusBadRequest, err.Error())
			return
		}
		p.reply(w, p.Faults())
	})
	mux.HandleFunc("PUT /ask", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		ask := p.cfg.Ask
		p.mu.Unlock()
		if !read(w, r, &ask) {
			return
		}
		p.SetAsk(ask)
		p.reply(w, ask)
	})
	return mux
}

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	dec := json.NewDecoder(io.LimitReader(r.Body, maxControl))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		answer(w, http.StatusBadRequest, "reading the body: "+err.Error())
		return false
	}
	return true
}

func (p *Provider) reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		p.log.Debug("answering a control request", "err", err)
	}
}
