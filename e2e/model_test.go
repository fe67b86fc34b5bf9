package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// An operation removes a pin, adds one, or both at once, which is a replacement.
type operation struct{ removes, adds string }

// A model is what the API must show to one account, as far as its owner has been told.
type model struct {
	held    map[string]string // id -> CID of what was acknowledged and not removed
	ids     []string          // the keys of held
	removed map[string]bool   // ids whose removal or replacement was acknowledged
	pending *operation        // what had no answer when the server died
}

func newModel() model {
	return model{held: map[string]string{}, removed: map[string]bool{}}
}

// apply records an operation that was done; id is that of the pin it added.
func (m *model) apply(op operation, id string) {
	if op.removes != "" {
		delete(m.held, op.removes)
		m.removed[op.removes] = true
		at := slices.Index(m.ids, op.removes)
		m.ids[at] = m.ids[len(m.ids)-1]
		m.ids = m.ids[:len(m.ids)-1]
	}
	if op.adds != "" {
		m.held[id] = op.adds
		m.ids = append(m.ids, id)
	}
}

// settle compares what is shown, id by CID, with the model and returns what must not be. The pending operation has
// been done or not, but never by half; afterwards the model knows which.
func (m *model) settle(shown map[string]string) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	var appeared, missing []string
	for id, root := range shown {
		switch want, ok := m.held[id]; {
		case m.removed[id]:
			problem("pin %s is back after its removal was acknowledged", id)
		case !ok:
			appeared = append(appeared, id)
		case root != want:
			problem("pin %s has CID %s; want %s", id, root, want)
		}
	}
	for id := range m.held {
		if _, ok := shown[id]; !ok {
			missing = append(missing, id)
		}
	}
	op := operation{}
	if m.pending != nil {
		op, m.pending = *m.pending, nil
	}
	done := operation{removes: strings.Join(missing, " ")}
	for _, id := range appeared {
		done.adds += shown[id]
	}
	switch {
	case done == operation{}:
		// Not done, and nothing else has changed either.
	case done != op:
		problem("%v are lost and %v have appeared; the unanswered operation was %+v", missing, appeared, op)
	default:
		m.apply(op, strings.Join(appeared, ""))
	}
	return problems
}

// A model that overlooks something would make the crash test pass whatever the server loses.
func TestModelNoticesWhatMustNotBe(t *testing.T) {
	for name, test := range map[string]struct {
		pending *operation
		shown   map[string]string
		wrong   int
		held    int
	}{
		"as acknowledged":               {nil, map[string]string{"1": "a", "2": "b"}, 0, 2},
		"lost":                          {nil, map[string]string{"1": "a"}, 1, 2},
		"back":                          {nil, map[string]string{"1": "a", "2": "b", "0": "z"}, 1, 2},
		"from nowhere":                  {nil, map[string]string{"1": "a", "2": "b", "3": "c"}, 1, 2},
		"changed":                       {nil, map[string]string{"1": "a", "2": "c"}, 1, 2},
		"an add that was done":          {&operation{adds: "c"}, map[string]string{"1": "a", "2": "b", "3": "c"}, 0, 3},
		"an add that was not done":      {&operation{adds: "c"}, map[string]string{"1": "a", "2": "b"}, 0, 2},
		"an add done twice":             {&operation{adds: "c"}, map[string]string{"1": "a", "2": "b", "3": "c", "4": "c"}, 1, 2},
		"an add of something else":      {&operation{adds: "c"}, map[string]string{"1": "a", "2": "b", "3": "d"}, 1, 2},
		"a removal that was done":       {&operation{removes: "1"}, map[string]string{"2": "b"}, 0, 1},
		"a removal that was not done":   {&operation{removes: "1"}, map[string]string{"1": "a", "2": "b"}, 0, 2},
		"a removal of something else":   {&operation{removes: "1"}, map[string]string{"1": "a"}, 1, 2},
		"a replacement that was done":   {&operation{"1", "c"}, map[string]string{"2": "b", "3": "c"}, 0, 2},
		"a replacement not done":        {&operation{"1", "c"}, map[string]string{"1": "a", "2": "b"}, 0, 2},
		"a replacement that only added": {&operation{"1", "c"}, map[string]string{"1": "a", "2": "b", "3": "c"}, 1, 2},
		"a replacement that only lost":  {&operation{"1", "c"}, map[string]string{"2": "b"}, 1, 2},
	} {
		m := newModel()
		m.apply(operation{adds: "z"}, "0")
		m.apply(operation{adds: "a"}, "1")
		m.apply(operation{"0", "b"}, "2")
		m.pending = test.pending
		if got := m.settle(test.shown); len(got) != test.wrong || len(m.held) != test.held || len(m.ids) != test.held {
			t.Errorf("%s: problems %q, then %d held; want %d problems, then %d held", name, got, len(m.held), test.wrong, test.held)
		}
	}
}
