package fairness

import "time"

// purse is what a client may still send: it fills at the rate up to the burst,
// and a request costs one. Who has less than one owes time.
type purse struct {
	credit float64
	at     time.Time // when credit was counted
}

// fill counts what has come in since.
func (p *purse) fill(now time.Time, l Limits) {
	if passed := now.Sub(p.at); passed > 0 { // of monotonic time
		p.credit = min(l.Burst, p.credit+passed.Seconds()*l.Rate)
	}
	p.at = now
}

// delay is how long the client's next request must wait.
func (p *purse) delay(now time.Time, l Limits) time.Duration {
	p.fill(now, l)
	if p.credit >= 1 {
		return 0
	}
	return time.Duration((1 - p.credit) / l.Rate * float64(time.Second))
}

// spend takes more than a request costs. Nobody is in debt for longer than twice
// the patience: after that it is as if nothing had been.
func (p *purse) spend(n float64, l Limits) {
	p.credit = max(p.credit-n, -2*l.Rate*l.Patience.Seconds())
}

func (p *purse) full(now time.Time, l Limits) bool {
	p.fill(now, l)
	return p.credit >= l.Burst
}
