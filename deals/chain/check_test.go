package chain_test

import (
	"strings"
	"testing"

	"github.com/frostpin/frostpin/deals/devnet"
)

func TestCheckSaysWhatIsThere(t *testing.T) {
	w := begin(t, devnet.Config{}, nil)
	w.fund()
	var text []string
	for _, f := range w.Check(t.Context()) {
		if f.Err != nil {
			t.Errorf("%s: %v", f.What, f.Err)
		}
		text = append(text, f.What+": "+f.Detail)
	}
	all := strings.Join(text, "\n")
	for _, want := range []string{"devnet", "sign", "epoch 2", w.ClientAddress().String(), "escrow 10 FIL", "it can be read", "they are served"} {
		if !strings.Contains(all, want) {
			t.Errorf("nothing of %q in\n%s", want, all)
		}
	}
}

func TestCheckSaysWhyThereIsNoNode(t *testing.T) {
	p := newPlug(t)
	l := open(t, p.url(), nil)
	found := l.Check(t.Context())
	if len(found) != 1 || found[0].Err == nil || found[0].Advice == "" {
		t.Errorf("%+v", found)
	}
}
