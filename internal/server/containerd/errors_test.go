package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Every error has the code of its kind and says what it said, whatever it is made of.
func TestErrors(t *testing.T) {
	dns := &net.DNSError{Err: "no such host", Name: "registry.example.com", IsNotFound: true} // unwraps to nil
	for _, tc := range []struct {
		err  error
		want codes.Code
	}{
		{fmt.Errorf("image: %w", errdefs.ErrNotFound), codes.NotFound},
		{fmt.Errorf("pull: %w", errors.Join(errdefs.ErrUnavailable, fmt.Errorf("connect: %w", dns))), codes.Unavailable},
		{fmt.Errorf("%w: %w", dns, errdefs.ErrUnavailable), codes.Unavailable},
		{dns, codes.Unknown},
		{errors.Join(io.ErrUnexpectedEOF, errdefs.ErrDataLoss), codes.DataLoss},
		{fmt.Errorf("pull: %w", context.Canceled), codes.Canceled},
		{errdefs.ErrNotImplemented, codes.Unimplemented},
		{status.Error(codes.Aborted, "elsewhere"), codes.Aborted},
	} {
		got := status.Convert(toGRPC(tc.err))
		want := tc.err.Error()
		if s, ok := status.FromError(tc.err); ok {
			want = s.Message()
		}
		if got.Code() != tc.want || got.Message() != want {
			t.Errorf("%v is %v, want %v", tc.err, got, tc.want)
		}
	}
	if err := toGRPC(nil); err != nil {
		t.Errorf("no error is %v", err)
	}
}
