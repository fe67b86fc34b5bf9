package piece_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
)

// A Kubo daemon elsewhere answers each block after a while. What stands in line is asked for together, also where
// every block might have links, as in files of the old layout.
func TestSlowStoreDoesNotSetThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const answer = 20 * time.Millisecond
		s := openStore(t, t.TempDir(), 0)
		m := newMemory()
		var nodes []cid.Cid
		for i := range 300 {
			nodes = append(nodes, m.node(fmt.Sprint("leaf that might have links ", i)))
		}
		for name, root := range map[string]cid.Cid{
			"leaves": m.tree("leaves", 300, 1, 10), "nodes": m.node("nodes", nodes...), "small directories": m.tree("bushy", 6, 3, 10),
		} {
			blocks := int64(len(reference(t, m, root)) / 30) // at least as many
			m.before = nil
			p := build(t, s, m, root)
			before := m.asked.Load()
			m.before = func(ctx context.Context, _ cid.Cid) error {
				select {
				case <-time.After(answer):
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			began := time.Now()
			build(t, s, m, root)
			took, asked := time.Since(began), m.asked.Load()-before
			if asked < 200 || asked > blocks {
				t.Fatalf("%s: %d blocks were asked for: the test proves nothing", name, asked)
			}
			if most := time.Duration(asked) * answer / 4; took > most {
				t.Errorf("%s: building took %s, one block at a time %s", name, took, time.Duration(asked)*answer)
			}
			began = time.Now()
			r := open(t, s, m, root, p.CARSize)
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Fatal(err)
			}
			if took, most := time.Since(began), time.Duration(asked)*answer/6; took > most {
				t.Errorf("%s: reading took %s, one block at a time %s", name, took, time.Duration(asked)*answer)
			}
			m.before = nil
		}
	})
}
