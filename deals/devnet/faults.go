package devnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/api"
)

// Faults is how the node misbehaves towards its RPC clients; the zero value is an honest node. "Every n-th" counts the
// calls that Methods selects, from the moment the faults are set; 0 = never. The in-process API is never affected, so
// the storage providers of a test can go on while the client under test sees a broken node.
type Faults struct {
	Methods []string `json:"methods,omitempty"` // names of API methods the counted faults apply to; empty = all

	ErrorEvery    uint64         `json:"errorEvery,omitempty"`    // answers with an error
	HangEvery     uint64         `json:"hangEvery,omitempty"`     // never answers; ends with the caller's connection
	NullEvery     uint64         `json:"nullEvery,omitempty"`     // answers null, or the zero value
	NotFoundEvery uint64         `json:"notFoundEvery,omitempty"` // StateMarketStorageDeal says "not found" of any deal
	DropEvery     uint64         `json:"dropEvery,omitempty"`     // cuts every connection instead of answering
	Lag           abi.ChainEpoch `json:"lag,omitempty"`           // the head it shows is so many epochs old
	Down          bool           `json:"down,omitempty"`          // connections are cut and refused
}

// errInjected is what an RPC client sees of Faults.ErrorEvery.
var errInjected = errors.New("injected fault: the node could not answer")

type faults struct {
	mu    sync.Mutex
	set   Faults
	calls uint64
	lies  uint64
}

// verdict is what a counted call gets instead of its answer.
type verdict int

const (
	honest verdict = iota
	answerError
	answerNull
	answerNever
	answerDrop
)

func (f *faults) current() Faults {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set
}

func (f *faults) next(method string) verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.set.Methods) > 0 && !slices.Contains(f.set.Methods, method) {
		return honest
	}
	f.calls++
	every := func(n uint64) bool { return n > 0 && f.calls%n == 0 }
	switch {
	case every(f.set.DropEvery):
		return answerDrop
	case every(f.set.HangEvery):
		return answerNever
	case every(f.set.ErrorEvery):
		return answerError
	case every(f.set.NullEvery):
		return answerNull
	default:
		return honest
	}
}

// lie tells whether this look at a deal is to be answered "not found".
func (f *faults) lie() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.set.NotFoundEvery == 0 {
		return false
	}
	f.lies++
	return f.lies%f.set.NotFoundEvery == 0
}

// SetFaults changes how the node misbehaves from now on; the counters start again.
func (n *Net) SetFaults(f Faults) {
	n.faults.mu.Lock()
	n.faults.set, n.faults.calls, n.faults.lies = f, 0, 0
	n.faults.mu.Unlock()
	n.conns.refuse(f.Down)
	if f.Down {
		n.conns.drop()
	}
	n.mu.Lock()
	n.announce() // what subscribers see of the head may have changed with the lag
	n.mu.Unlock()
}

// Faults returns what SetFaults has set.
func (n *Net) Faults() Faults { return n.faults.current() }

// DropConnections cuts every RPC connection once; clients may connect again.
func (n *Net) DropConnections() { n.conns.drop() }

// faulty wraps every method of a node so that it obeys the faults. It must wrap the node that checks permissions, not
// the other way round: a refused token is not a fault.
func (n *Net) faulty(inner *api.FullNodeStruct) {
	for _, methods := range api.GetInternalStructs(inner) {
		v := reflect.ValueOf(methods).Elem()
		for i := range v.NumField() {
			field, name := v.Field(i), v.Type().Field(i).Name
			if field.Kind() != reflect.Func || field.IsNil() {
				continue
			}
			call := reflect.ValueOf(field.Interface())
			field.Set(reflect.MakeFunc(field.Type(), func(args []reflect.Value) []reflect.Value {
				return n.answer(name, call, args)
			}))
		}
	}
}

func (n *Net) answer(name string, call reflect.Value, args []reflect.Value) []reflect.Value {
	instead := func(err error) []reflect.Value {
		t := call.Type()
		out := make([]reflect.Value, t.NumOut())
		for i := range out {
			out[i] = reflect.Zero(t.Out(i))
		}
		if err != nil {
			out[len(out)-1] = reflect.ValueOf(&err).Elem()
		}
		return out
	}
	switch n.faults.next(name) {
	case honest:
		return call.Call(args)
	case answerError:
		return instead(fmt.Errorf("%s: %w", name, errInjected))
	case answerNull:
		if t := call.Type(); t.NumOut() > 1 && t.Out(0).Kind() == reflect.Chan {
			return call.Call(args) // a subscription has no null form
		}
		return instead(nil)
	case answerDrop:
		n.conns.drop()
		return instead(errInjected)
	case answerNever:
		ctx, _ := reflect.TypeAssert[context.Context](args[0])
		<-ctx.Done()
		return instead(ctx.Err())
	}
	panic("unknown verdict")
}

// connections tracks what the RPC listener has accepted, so that it can be cut.
type connections struct {
	net.Listener
	mu      sync.Mutex
	open    map[net.Conn]struct{}
	refused bool
}

func (c *connections) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		refused := c.refused
		if !refused {
			c.open[conn] = struct{}{}
		}
		c.mu.Unlock()
		if !refused {
			return &tracked{conn, c}, nil
		}
		_ = conn.Close()
	}
}

type tracked struct {
	net.Conn
	of *connections
}

func (t *tracked) Close() error {
	t.of.mu.Lock()
	delete(t.of.open, t.Conn)
	t.of.mu.Unlock()
	return t.Conn.Close()
}

func (c *connections) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Close()
	}
	clear(c.open)
}

func (c *connections) refuse(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = yes
}
