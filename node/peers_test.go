package node

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"mailnode/storage/slot"
)

// TestNodeThatIsBackIsReachedAtOnce: a node that was away is dialled the moment it was
// heard, not when the pause after the last try is over.
func TestNodeThatIsBackIsReachedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		c, err := grpc.NewClient("passthrough:///n2", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { dials++; return nil, net.ErrClosed }),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Hour, Multiplier: 1, MaxDelay: time.Hour}}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		p := &peers{m: map[slot.NodeName]*grpc.ClientConn{"n2": c}}
		c.Connect()
		synctest.Wait()
		p.answers("n3")
		synctest.Wait()
		if dials != 1 {
			t.Fatalf("dialled %d times, want once", dials)
		}
		p.answers("n2")
		synctest.Wait()
		if dials != 2 {
			t.Errorf("dialled %d times after it was heard, want twice", dials)
		}
	})
}
