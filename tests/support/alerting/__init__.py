"""The shipped rules and what is needed to see them at work.

`rules` reads them, `shorten` makes minutes of them pass in seconds, `servers` runs Prometheus,
Alertmanager and a receiver of notifications, `hosts` and `scenes` are network namespaces with the
real daemon and with what goes on there, `fleet` stands for very many hosts.
"""
