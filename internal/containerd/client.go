// Package containerd speaks to the socket of containerd, or of a daemon that answers as it does.
//
// A [Client] works in one namespace. It keeps blobs there as any [content.Store] does, and fills a
// [metadata.Store] with what the peer knows; what acts change in it goes on to the peer. The peer
// alone decides what is collected: so that nothing goes that an act has just brought, all that it
// writes is under a lease, which ends with the act.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stowage/stowage/internal/content"
)

// The headers of requests.
const (
	namespaceHeader = "containerd-namespace"
	leaseHeader     = "containerd-lease"
)

// maxMessage is the size of the largest message that containerd takes, in bytes.
const maxMessage = 16 << 20

// dialTime bounds how long a peer may take to answer the first question.
const dialTime = 10 * time.Second

// Options tune [Dial].
type Options struct {
	Namespace string
	// Aside is the folder that takes what [Client.Quarantine] moves aside; it is made when it is needed.
	Aside string
}

// A Client is a connection to one namespace of a peer. Goroutines may share it.
type Client struct {
	conn    *grpc.ClientConn
	address string
	o       Options
	blobs   contentapi.ContentClient

	mu      sync.Mutex
	writers map[string]*ingest      // of this process, by key
	kept    map[string]content.Want // of the ingests that this process left unfinished
	acts    int                     // under way
	lease   string                  // of the acts; empty: none is needed yet
}

var _ content.Store = (*Client)(nil)

// Dial connects to a socket: a path, or unix:// and a path. The caller closes the client. Errors:
// [errdefs.ErrUnavailable] when nobody answers there.
func Dial(ctx context.Context, address string, o Options) (*Client, error) {
	path := strings.TrimPrefix(address, "unix://")
	if scheme, _, ok := strings.Cut(path, "://"); ok {
		return nil, fmt.Errorf("address %s: want a unix socket, not %s: %w", address, scheme, errdefs.ErrInvalidArgument)
	}
	c := &Client{address: address, o: o, writers: map[string]*ingest{}, kept: map[string]content.Want{}}
	var err error
	c.conn, err = grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(c.headers(ctx), method, req, reply, conn, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(c.headers(ctx), desc, conn, method, opts...)
		}))
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", address, err)
	}
	c.blobs = contentapi.NewContentClient(c.conn)
	asked, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if _, err := versionapi.NewVersionClient(c.conn).Version(asked, &emptypb.Empty{}); err != nil {
		return nil, errors.Join(fmt.Errorf("reach %s: %w", address, native(err)), c.conn.Close())
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	return errors.Join(c.dropLease(context.Background()), c.conn.Close())
}

// headers adds to a request what containerd looks for in each.
func (c *Client) headers(ctx context.Context) context.Context {
	pairs := []string{namespaceHeader, c.o.Namespace}
	c.mu.Lock()
	if c.lease != "" {
		pairs = append(pairs, leaseHeader, c.lease)
	}
	c.mu.Unlock()
	return grpcmetadata.AppendToOutgoingContext(ctx, pairs...)
}

// native makes one of the kinds of errdefs of what gRPC answers.
func native(err error) error {
	if err == nil {
		return nil
	}
	return errgrpc.ToNative(err)
}

// locked tells whether an answer says that another has something, rather than that nobody answers.
func (c *Client) locked(err error) bool {
	return errdefs.IsUnavailable(err) && c.conn.GetState() == connectivity.Ready
}
