package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"mailnode/storage/fair"
)

// joinersMax bounds how many joiners are served at one time: so many that have not
// asked yet, of which one more ends the oldest, and so many that have; more are closed.
const joinersMax = 64

// Authorizer decides about a joiner: it uses the token up and adds the member,
// in one Raft command, and returns what the joiner needs to know. The same joiner
// with the same token is told the same again. Its error is told to the joiner in
// these words; see ErrAskAnother.
type Authorizer func(ctx context.Context, r JoinRequest) (JoinAccepted, error)

// ServeJoin answers joiners that arrive at ln, the Listener of ProtoJoin, until
// it is closed or ctx ends; it then waits for those under way and returns nil.
func ServeJoin(ctx context.Context, ln net.Listener, id *Identity, authorize Authorizer, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	office := joinOffice{id: id, authorize: authorize, silent: fair.NewPending(joinersMax, joinersMax/2), free: make(chan struct{}, joinersMax), log: log}
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept joiner: %w", err)
		}
		if office.silent.Add(c, client(c)) {
			log.Warn("joiner that had not asked dropped for newer ones", slog.String("remote", c.RemoteAddr().String()))
		}
		work.Go(func() { office.serve(ctx, c) })
	}
}

// joinOffice is what joiners are served with.
type joinOffice struct {
	id        *Identity
	authorize Authorizer
	silent    *fair.Pending // who has not asked yet
	free      chan struct{} // places of those who have
	log       *slog.Logger
}

func (o joinOffice) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer o.silent.Done(c)
	log := o.log.With(slog.String("remote", c.RemoteAddr().String()))
	if err := c.SetDeadline(time.Now().Add(joinRequestTimeout)); err != nil {
		log.Warn("joiner lost", slog.Any("error", err))
		return
	}
	var wire joinWire
	if err := readFrame(c, magicJoin(), &wire, joinRequestMax); err != nil {
		log.Warn("joiner said nothing that can be read", slog.Any("error", err))
		return
	}
	o.silent.Done(c)
	select {
	case o.free <- struct{}{}:
		defer func() { <-o.free }()
	default:
		log.Warn("joiner closed, too many at one time")
		return
	}
	decide, cancel := context.WithTimeout(ctx, joinDecisionTimeout)
	defer cancel()
	answer, err := decideJoin(decide, wire, o.id, o.authorize)
	if err != nil {
		log.Warn("joiner refused", slog.String("node", shorten(string(wire.Name), 40)), slog.Any("error", err))
		answer = joinAnswer{Refusal: shorten(err.Error(), refusalMaxLen), AskAnother: errors.Is(err, ErrAskAnother)}
	} else {
		log.Info("node joined", slog.String("node", string(wire.Name)), slog.String("address", wire.Address))
	}
	if err := c.SetDeadline(time.Now().Add(joinRequestTimeout)); err != nil {
		log.Warn("joiner lost", slog.Any("error", err))
		return
	}
	if err := writeFrame(c, magicAnswer(), answer, joinAnswerMax); err != nil {
		log.Warn("joiner lost before it had its answer", slog.String("node", string(wire.Name)), slog.Any("error", err))
	}
}

// keyHash is what Raft remembers of a member's public key; "" for one that no member
// has.
func keyHash(public any) string {
	key, ok := public.(ed25519.PublicKey)
	if !ok {
		return ""
	}
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

// decideJoin asks the authorizer last of all, so that nothing that is wrong
// with the request can use up the token.
func decideJoin(ctx context.Context, wire joinWire, id *Identity, authorize Authorizer) (joinAnswer, error) {
	r := JoinRequest{TokenID: shorten(wire.TokenID, 64), SecretHash: sha256.Sum256(wire.Secret), Name: wire.Name,
		Address: wire.Address, Zone: wire.Zone, Standby: wire.Standby, Role: wire.Role, Features: wire.Features, Replace: wire.Replace}
	if err := r.check(); err != nil {
		return joinAnswer{}, err
	}
	csr, err := x509.ParseCertificateRequest(wire.CSR)
	if err != nil {
		return joinAnswer{}, fmt.Errorf("read certificate request of node %q: %w", r.Name, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return joinAnswer{}, fmt.Errorf("check certificate request of node %q: %w", r.Name, err)
	}
	public, ok := csr.PublicKey.(ed25519.PublicKey)
	if !ok {
		return joinAnswer{}, fmt.Errorf("check certificate request of node %q: key is a %T, want Ed25519", r.Name, csr.PublicKey)
	}
	if !id.Admits() {
		return joinAnswer{}, fmt.Errorf("this node does not hold the CA's key: %w", ErrAskAnother)
	}
	cert, err := id.ca.issue(id.cluster, r.Name, public)
	if err != nil {
		return joinAnswer{}, err
	}
	caKey, err := encodeKey(id.ca.key)
	if err != nil {
		return joinAnswer{}, err
	}
	r.Key = keyHash(public)
	accepted, err := authorize(ctx, r)
	if err != nil {
		return joinAnswer{}, err
	}
	if !accepted.Admits {
		caKey = nil
	}
	return joinAnswer{Cluster: id.cluster, Generation: id.Generation(), CA: encodeCert(id.ca.cert), CAKey: caKey, Cert: encodeCert(cert), Accepted: accepted}, nil
}
