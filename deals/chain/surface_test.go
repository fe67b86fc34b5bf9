package chain

import (
	"reflect"
	"testing"

	"github.com/filecoin-project/lotus/api"
)

func TestSurfaceIsThatOfLotus(t *testing.T) {
	lotus := reflect.TypeFor[api.FullNode]()
	ours := reflect.TypeFor[node]()
	for f := range ours.Fields() {
		m, ok := lotus.MethodByName(f.Name)
		if !ok {
			t.Errorf("lotus has no %s", f.Name)
			continue
		}
		if f.Type.NumIn() != m.Type.NumIn() || f.Type.NumOut() != m.Type.NumOut() {
			t.Errorf("%s is %s, and %s in lotus", f.Name, f.Type, m.Type)
			continue
		}
		for j := range f.Type.NumIn() {
			if f.Type.In(j) != m.Type.In(j) {
				t.Errorf("%s: argument %d is %s, and %s in lotus", f.Name, j, f.Type.In(j), m.Type.In(j))
			}
		}
		mine, theirs := f.Type.Out(0), m.Type.Out(0)
		if mine != theirs && (mine.Kind() != reflect.Pointer || mine.Elem() != theirs && mine.Elem().Kind() != theirs.Kind()) {
			t.Errorf("%s returns %s, and %s in lotus", f.Name, mine, theirs)
		}
	}
}
