package cluster

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const tokenSeconds = 365 * 24 * 3600

// bootstrap makes the objects that kubeadm makes and a node needs, and returns kube-proxy's token.
func (c *Cluster) bootstrap(ctx context.Context) (string, error) {
	client, err := c.Client()
	if err != nil {
		return "", err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: KubeProxy, Namespace: metav1.NamespaceSystem}}
	accounts := client.CoreV1().ServiceAccounts(metav1.NamespaceSystem)
	if _, err := accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return "", fmt.Errorf("create service account of kube-proxy: %w", err)
	}
	for _, b := range []*rbacv1.ClusterRoleBinding{
		binding("playground:node-proxier", "system:node-proxier", rbacv1.Subject{
			Kind: rbacv1.ServiceAccountKind, Name: KubeProxy, Namespace: metav1.NamespaceSystem,
		}),
		// Lets kubelets renew their client certificates.
		binding("playground:node-certificate-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
			rbacv1.Subject{Kind: rbacv1.GroupKind, Name: "system:nodes", APIGroup: rbacv1.GroupName}),
	} {
		_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, b, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("create cluster role binding %s: %w", b.Name, err)
		}
	}
	if c.Config.DNS {
		if err := createDNS(ctx, client); err != nil {
			return "", fmt.Errorf("create objects of DNS: %w", err)
		}
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](tokenSeconds)}}
	token, err := accounts.CreateToken(ctx, KubeProxy, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create token of kube-proxy: %w", err)
	}
	return token.Status.Token, nil
}

func binding(name, role string, subject rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{subject},
	}
}
