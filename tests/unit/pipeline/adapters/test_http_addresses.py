from __future__ import annotations

import pytest

from pipeline.adapters.http_addresses import is_public

PRIVATE = """
0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1
192.168.1.1 198.18.0.1 198.51.100.7 203.0.113.9 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
:: ::1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a00:1 2002:7f00:1:: 2002:a9fe:a9fe::
2002:808:808::1 2001:db8::1 fc00::1 fd12::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 100::1 2001:0:7f00:1:0:0:f5ff:fffe
"""
PUBLIC = "1.1.1.1 8.8.8.8 172.32.0.1 100.128.0.1 ::ffff:8.8.8.8 64:ff9b::808:808 2606:4700:4700::1111"


@pytest.mark.parametrize("address", PRIVATE.split())
def test_an_address_of_no_host_on_the_internet_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_an_address_of_a_host_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)
