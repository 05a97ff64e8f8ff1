package fairness

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestTokenFlood: a flood of made-up tokens is a trickle of questions, and no
// other address waits for it.
func TestTokenFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Strangers
		asked := 0
		const seconds = 60
		for range 100 * seconds {
			if s.Ask("10.0.0.5") == nil {
				asked++
				s.Asked("10.0.0.5")
			}
			time.Sleep(time.Second / 100)
		}
		if most := askBurst + seconds*askRate + 1; asked > most {
			t.Errorf("%d questions, want at most %d", asked, most)
		}
		if err := s.Ask("10.0.0.6"); err != nil {
			t.Errorf("another address is refused: %v", err)
		}
		s.Asked("10.0.0.6")
	})
}

func TestQuestionsAtATime(t *testing.T) {
	var s Strangers
	for i := range maxAsking / maxAskingAddress {
		from := fmt.Sprint("10.0.0.", i)
		for range maxAskingAddress {
			if err := s.Ask(from); err != nil {
				t.Fatal(err)
			}
		}
		var refusal *RefusalError
		if err := s.Ask(from); !errors.As(err, &refusal) {
			t.Errorf("%s asks one question more: %v", from, err)
		}
	}
	if err := s.Ask("10.0.1.1"); err == nil {
		t.Error("one question more than there may be at a time")
	}
	s.Asked("10.0.0.1")
	if err := s.Ask("10.0.1.1"); err != nil {
		t.Errorf("an answer makes no room: %v", err)
	}
}

func TestAddressesAreForgotten(t *testing.T) {
	var s Strangers
	for i := range 5 * maxClients {
		from := fmt.Sprint(i)
		if err := s.Ask(from); err != nil {
			t.Fatal(err)
		}
		s.Asked(from)
	}
	if len(s.addresses) > maxClients {
		t.Errorf("%d addresses are remembered", len(s.addresses))
	}
}
