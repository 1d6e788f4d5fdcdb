/* Looks a name up with the C library that it is linked with, and prints its IPv4 addresses. */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
  struct addrinfo hints, *list, *entry;
  char text[INET_ADDRSTRLEN];
  memset(&hints, 0, sizeof hints);
  hints.ai_socktype = SOCK_STREAM;
  int code = argc == 2 ? getaddrinfo(argv[1], NULL, &hints, &list) : EAI_NONAME;
  if (code != 0) {
    fprintf(stderr, "%s\n", gai_strerror(code));
    return 1;
  }
  for (entry = list; entry; entry = entry->ai_next) {
    if (entry->ai_family != AF_INET) continue;
    struct sockaddr_in *address = (struct sockaddr_in *)entry->ai_addr;
    puts(inet_ntop(AF_INET, &address->sin_addr, text, sizeof text));
  }
  return 0;
}
