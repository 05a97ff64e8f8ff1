package gateway

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"yurt/internal/credential"
)

// all sends requests at the same time and returns them when all have ended.
func (w *world) all(lines []string) []*client {
	var clients []*client
	for _, line := range lines {
		clients = append(clients, w.begin(line))
	}
	for _, c := range clients {
		<-c.done
		c.cancel()
	}
	rest()
	return clients
}

// times repeats a request; %d in it is its number.
func times(n int, format string) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = strings.ReplaceAll(format, "%d", strconv.Itoa(i))
	}
	return lines
}

func codes(clients []*client) map[int]int {
	count := map[int]int{}
	for _, c := range clients {
		count[c.code]++
	}
	return count
}

// TestGreedyClientIsRefused: who sends more than its share is told when to come
// again, in the API's words, and the node's requests don't wait meanwhile.
func TestGreedyClientIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.change("put /api/v1/namespaces/shop/configmaps/a 1")
		const get = "GET /api/v1/namespaces/shop/configmaps/a"
		w.do(get + " as=alice-token")
		greedy := w.all(times(1000, get+" as=alice-token"))
		count := codes(greedy)
		// Its share of seats and its queue at least; more if answers were quick.
		if count[http.StatusOK] < 100 || count[http.StatusTooManyRequests] < 500 || count[http.StatusOK]+count[http.StatusTooManyRequests] != len(greedy) {
			t.Errorf("a thousand requests at once: %v", count)
		}
		for _, c := range greedy {
			if c.code == http.StatusTooManyRequests {
				if got := c.String(); !strings.HasPrefix(got, "429 TooManyRequests: too many requests") || c.header.Get("Retry-After") == "" {
					t.Errorf("%s, Retry-After %q", got, c.header.Get("Retry-After"))
				}
				break
			}
		}
		for _, c := range w.all(append(times(200, get+" as=alice-token"), times(100, get)...))[200:] {
			if c.code != http.StatusOK || c.took > 500*time.Millisecond {
				t.Fatalf("the node beside a greedy client: %s after %s", c, c.took)
			}
		}
	})
}

// TestAStreamTakesNoSeat: watches are bounded apart from other requests.
func TestAStreamTakesNoSeat(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.change("put /api/v1/namespaces/shop/configmaps/a 1")
		const watch = "GET /api/v1/namespaces/shop/configmaps?watch=1&resourceVersion=0 as=alice-token"
		var open []*client
		for range 300 {
			open = append(open, w.begin(watch))
			w.change("sleep 20ms")
		}
		w.change("sleep 2s")
		refused := 0
		for _, c := range open {
			select {
			case <-c.done:
				if c.code != http.StatusTooManyRequests {
					t.Errorf("a watch ended: %s", c)
				}
				refused++
			default:
			}
		}
		if refused != 50 {
			t.Errorf("%d of 300 watches were refused, want 50", refused)
		}
		if c := w.do("GET /api/v1/namespaces/shop/configmaps/a as=alice-token"); c.code != http.StatusOK {
			t.Errorf("a get beside watches: %s", c)
		}
		for _, c := range open {
			c.cancel()
			<-c.done
		}
	})
}

// TestCollectionsOfAClient: a client that makes up selectors is answered, and
// opens no more feeds and tables than it may.
func TestCollectionsOfAClient(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.change("put /api/v1/namespaces/shop/configmaps/a 1")
		const most = 200
		list := "GET /api/v1/namespaces/shop/configmaps?resourceVersion=0&labelSelector=x%3D%d"
		for i := range most + 50 {
			if c := w.do(strings.ReplaceAll(list, "%d", strconv.Itoa(i)) + " as=alice-token"); c.code != http.StatusOK {
				t.Fatalf("list %d: %s", i, c)
			}
		}
		if n := len(w.gateway.Replicas.All()); n > most {
			t.Errorf("%d collections of one client", n)
		}
		if c := w.do("GET /api/v1/namespaces/shop/configmaps?resourceVersion=0&labelSelector=y as=bob-token"); c.code != http.StatusOK {
			t.Errorf("another client: %s", c)
		}
		w.change("sleep 20m", "cut", "sleep 2m") // and in the dark what was not used for longest makes room
		if n := len(w.gateway.Replicas.All()); n >= most {
			t.Errorf("%d collections, and none made room", n)
		}
		if !w.gateway.Replicas.MayOpen(credential.Identity{Name: "alice"}) {
			t.Error("a client may open nothing more for ever")
		}
	})
}

// TestTokenFloodIsATrickle: made-up tokens don't become reviews at the rate at
// which they come.
func TestTokenFloodIsATrickle(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.cloud.takeSeen()
		for i := range 10 {
			w.all(times(200, fmt.Sprintf("GET /api/v1/namespaces/shop/configmaps/a tls as=token-%d-", i)+"%d"))
			w.change("sleep 1s")
		}
		reviews := 0
		for _, line := range w.cloud.takeSeen() {
			if strings.Contains(line, "tokenreviews") {
				reviews++
			}
		}
		if reviews == 0 || reviews > 150 {
			t.Errorf("2000 made-up tokens were %d reviews", reviews)
		}
	})
}

// TestLongBodies: a write is as long as the API server takes it, and no longer.
func TestLongBodies(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for _, length := range []int{maxWrite + 1, 10 * maxWrite} {
			c := w.do("POST /api/v1/namespaces/shop/configmaps body=" + strings.Repeat("x", length))
			if got := c.String(); got != "413 RequestEntityTooLarge: Request entity too large: limit is 3145728" {
				t.Errorf("%d bytes: %s", length, got)
			}
		}
		w.cloud.takeSeen()
		w.do("POST /api/v1/namespaces/shop/configmaps body=" + strings.Repeat("x", maxWrite))
		if seen := strings.Join(w.cloud.takeSeen(), "\n"); !strings.Contains(seen, "POST /api/v1/namespaces/shop/configmaps as node") {
			t.Errorf("a body of the longest kind does not reach the API server, which sees %q", seen)
		}
	})
}
