package devnet

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"github.com/filecoin-project/go-state-types/abi"
)

// controls is the surface through which other processes steer the devnet. It carries no authentication: mount it on a
// loopback address of its own, never beside the RPC endpoint.
type controls struct {
	once sync.Once
	mux  *http.ServeMux
}

// Control adds a handler under a path of ControlHandler, in the syntax of http.ServeMux.
func (n *Net) Control(path string, h http.Handler) { n.controlMux().Handle(path, h) }

// ControlHandler serves, as JSON:
//
//	GET  /head     {"height":12,"key":[…]}
//	GET  /deals    every deal the chain ever had, with its fate
//	POST /advance  {"epochs":5} or {"nullRounds":100}; answers like /head
//	POST /reorg    {"depth":3,"drop":true}; answers like /head
//	GET  /faults   the node's faults
//	PUT  /faults   sets them
//	POST /drop     cuts every RPC connection once
func (n *Net) ControlHandler() http.Handler { return n.controlMux() }

func (n *Net) controlMux() *http.ServeMux {
	n.control.once.Do(func() {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /head", func(w http.ResponseWriter, _ *http.Request) { n.writeHead(w) })
		mux.HandleFunc("GET /deals", func(w http.ResponseWriter, _ *http.Request) {
			deals, err := n.Deals() //nolint:contextcheck // it only reads, from memory
			writeJSON(w, deals, err)
		})
		mux.HandleFunc("POST /advance", n.controlAdvance)
		mux.HandleFunc("POST /reorg", n.controlReorg)
		mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, n.Faults(), nil) })
		mux.HandleFunc("PUT /faults", n.controlFaults)
		mux.HandleFunc("POST /drop", func(w http.ResponseWriter, _ *http.Request) {
			n.DropConnections()
			writeJSON(w, struct{}{}, nil)
		})
		n.control.mux = mux
	})
	return n.control.mux
}

func (n *Net) writeHead(w http.ResponseWriter) {
	head, _ := n.watch()
	writeJSON(w, map[string]any{"height": head.height(), "key": head.ts.Cids()}, nil)
}

func (n *Net) controlAdvance(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Epochs     int `json:"epochs"`
		NullRounds int `json:"nullRounds"`
	}
	if !readJSON(w, r, &in) {
		return
	}
	const most = 1_000_000
	if in.Epochs < 0 || in.NullRounds < 0 || in.Epochs > most || in.NullRounds > most {
		writeJSON(w, nil, errors.New("epochs and nullRounds must be between 0 and a million"))
		return
	}
	var err error
	if in.NullRounds > 0 {
		err = n.Skip(in.NullRounds) //nolint:contextcheck // a tipset that was begun is finished
	}
	if err == nil {
		err = n.Advance(in.Epochs) //nolint:contextcheck // as above
	}
	if err != nil {
		writeJSON(w, nil, err)
		return
	}
	n.writeHead(w)
}

func (n *Net) controlReorg(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Depth int  `json:"depth"`
		Drop  bool `json:"drop"`
	}
	if !readJSON(w, r, &in) {
		return
	}
	if err := n.Reorg(in.Depth, in.Drop); err != nil { //nolint:contextcheck // a fork that was begun is finished
		writeJSON(w, nil, err)
		return
	}
	n.writeHead(w)
}

func (n *Net) controlFaults(w http.ResponseWriter, r *http.Request) {
	var f Faults
	if !readJSON(w, r, &f) {
		return
	}
	if f.Lag < 0 || f.Lag > abi.ChainEpoch(n.keep()) {
		writeJSON(w, nil, errors.New("lag must not be negative or reach below what the node keeps"))
		return
	}
	n.SetFaults(f)
	writeJSON(w, f, nil)
}

func readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		writeJSON(w, nil, err)
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		v = map[string]string{"error": err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v) // the caller has gone if this fails
}
